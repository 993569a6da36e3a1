"""``timberkit plan --nodes N --cores C``: what a cluster would take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from timberkit.errors import UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from timberkit.engine.cluster_estimate import ClusterEstimate
    from timberkit.engine.estimate import Calibration
    from timberkit.engine.plan import RefinementPlan

GIGABYTE = 1e9
SHARD_BYTES = 5e9
"""Usual size of the files that large models are published in."""

Nodes = Annotated[
    int | None, typer.Option(min=1, help="Show what a cluster of so many machines takes.")
]
Cores = Annotated[int | None, typer.Option(min=1, help="Cores of each of them [this machine's].")]
Bandwidth = Annotated[
    float | None,
    typer.Option(help="GB a second that their file system moves, all machines together [0.4]."),
]


@dataclass(frozen=True, slots=True)
class Machines:
    """The cluster that was asked about; None: this machine's cores, an assumed file system."""

    nodes: int
    cores: int | None
    bandwidth: float | None

    def estimate(
        self, plan: RefinementPlan, calibration: Calibration, *, from_shapes: bool
    ) -> ClusterEstimate:
        """What the plan takes there; UsageError for a bandwidth that is not positive.

        ``from_shapes``: the plan is not of files, so files of ``SHARD_BYTES`` are assumed.
        """
        from timberkit.engine.cluster_estimate import estimate_cluster
        from timberkit.engine.estimate import WRITE_BYTES_PER_SECOND
        from timberkit.engine.fork_server import usable_cores

        given = self.bandwidth
        return estimate_cluster(
            plan,
            calibration,
            nodes=self.nodes,
            cores=usable_cores() if self.cores is None else self.cores,
            bytes_per_second=WRITE_BYTES_PER_SECOND if given is None else given * GIGABYTE,
            shard_bytes=SHARD_BYTES if from_shapes else None,
        )


def asked_cluster(nodes: int | None, cores: int | None, bandwidth: float | None) -> Machines | None:
    """What the options ask for, None without ``--nodes``; UsageError for the others without it."""
    if nodes is not None:
        return Machines(nodes, cores, bandwidth)
    for option, value in (("--cores", cores), ("--bandwidth", bandwidth)):
        if value is not None:
            raise UsageError(f"{option} {value}: only with --nodes; add it, or leave it out")
    return None


def show_cluster(console: Console, found: ClusterEstimate, *, assumed: bool) -> None:
    """Time, where it goes, what more machines would do, and the memory of each.

    ``assumed``: nobody said how fast the file system is.
    """
    from timberkit.terminal import duration, size

    console.print(
        f"On {found.nodes} machine{'s' if found.nodes > 1 else ''} of {found.cores}"
        f" core{'s' if found.cores > 1 else ''} like this one's: about {duration(found.seconds)}"
        f" (arithmetic {duration(found.arithmetic_seconds)}; beside it, reading"
        f" {size(found.read_bytes)} and writing {size(found.written_bytes)} at"
        f" {size(int(found.bytes_per_second))}/s in all {duration(found.files_seconds)}; hashes"
        f" {duration(found.hash_seconds)}), {size(found.memory_per_node_bytes)} of memory each."
    )
    limits = {
        "processors": f"More machines help, up to {found.useful_nodes}.",
        "largest matrix": f"More than {found.useful_nodes} do not help: one matrix takes as long.",
        "file system": f"More than {found.useful_nodes} do not help: the file system is the limit.",
    }
    console.print(limits[found.limit])
    if assumed:
        console.print("How fast files are read and written is assumed; --bandwidth says it.")
