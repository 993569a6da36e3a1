"""Before a run on a cluster: every machine has the same folders and the same libraries."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ray
from ray import exceptions as ray_errors
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from timberkit.engine.finish import TOOL_VERSION, libraries
from timberkit.engine.shared_folders import (
    SharedFolders,
    finds_mark,
    leave_mark,
    missing_here,
)
from timberkit.errors import InterruptedRunError, ResourceError

PROBE_SECONDS = 120.0
"""A machine that has not answered by then is taken for broken; it imports everything first."""

_SHARE = "mount the same folders on every machine, under the same paths"


def look_around(folders: SharedFolders) -> dict[str, Any]:
    """On a machine of the cluster: its name and versions, what it misses, the mark it left."""
    found: dict[str, Any] = {
        "host": socket.gethostname(),
        "versions": {"timberkit": TOOL_VERSION, **libraries()},
        "problem": missing_here(folders),
        "mark": None,
    }
    if found["problem"] is None and folders.stage is not None:
        try:
            found["mark"] = leave_mark(Path(folders.stage))
        except InterruptedRunError as error:
            found["problem"] = str(error)
    return found


def check_nodes(
    nodes: Sequence[Mapping[str, Any]], folders: SharedFolders, *, gpu: bool = False
) -> None:
    """Have every machine look around, and compare.

    Raises ResourceError naming the first machine that cannot take part, and what it lacks; where
    there is none at all, or none with a GPU when one is asked for.
    """
    if not nodes:
        raise ResourceError(
            "the Ray cluster has no machine with a core for tasks; start one with: ray start"
            " --address"
        )
    if gpu and not any(node["Resources"].get("GPU", 0) for node in nodes):
        raise ResourceError(
            "device cuda: no machine of the Ray cluster has a GPU; leave --device out, or add one"
        )
    probe = ray.remote(look_around)
    asked = {}
    for node in nodes:
        there = NodeAffinitySchedulingStrategy(node_id=node["NodeID"], soft=False)
        # No core is asked for: a machine that is at work can answer, too.
        answer = probe.options(num_cpus=0, scheduling_strategy=there).remote(folders)
        asked[answer] = f"{node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
    ready, late = ray.wait(list(asked), num_returns=len(asked), timeout=PROBE_SECONDS)
    if late:
        raise ResourceError(
            f"machine {asked[late[0]]}: no answer within {PROBE_SECONDS:.0f} s, expected one; look"
            " at its Ray log"
        )
    # Those that died meanwhile take no part; one that joins looks around before its first task.
    if not [name for name in (_judge(asked[answer], answer, folders) for answer in ready) if name]:
        raise ResourceError(
            "every machine of the Ray cluster died while it was looked at; see: ray status"
        )


def _judge(name: str, answer: Any, folders: SharedFolders) -> str | None:
    """The name of a machine that can take part, None of one that has died."""
    try:
        found = ray.get(answer)
    except (ray_errors.NodeDiedError, ray_errors.TaskUnschedulableError):
        return None
    except ray_errors.RayError as error:
        last = str(error).strip().splitlines()[-1:]
        raise ResourceError(
            f"machine {name}: timberkit cannot be started there: {''.join(last)}; install the same"
            " version, with the extra ray, on every machine"
        ) from None
    if found["problem"] is not None:
        raise ResourceError(f"machine {name}: {found['problem']}; {_SHARE}")
    here = {"timberkit": TOOL_VERSION, **libraries()}
    for library, version in here.items():
        if found["versions"].get(library) != version:
            raise ResourceError(
                f"machine {name}: found {library} {found['versions'].get(library)}, expected"
                f" {version} as here; the bytes of a result may depend on it: install the same"
                " versions everywhere"
            )
    if folders.stage is not None and found["mark"] is not None:
        stage = Path(folders.stage)
        if not finds_mark(stage, *found["mark"]):
            raise ResourceError(
                f"machine {name}: what it writes to {stage} does not arrive here; {_SHARE}"
            )
    return name
