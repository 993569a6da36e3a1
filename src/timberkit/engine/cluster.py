"""Whether the work is shared by the machines of a Ray cluster, and which.

No Ray is imported here: who works on one machine needs none.
"""

from __future__ import annotations

from dataclasses import dataclass

from timberkit.errors import UsageError

EXECUTORS = ("local", "ray")


@dataclass(frozen=True, slots=True)
class Cluster:
    """A Ray cluster: ``host:port`` of its head, or None for the one that this machine is in."""

    address: str | None = None


def cluster_of(executor: str, address: str | None = None) -> Cluster | None:
    """The cluster that an executor's name and an address mean; None for this machine alone.

    Raises UsageError for another name, and for an address that belongs to nothing.

    >>> cluster_of("ray", "10.0.0.1:6379")
    Cluster(address='10.0.0.1:6379')
    """
    if executor not in EXECUTORS:
        raise UsageError(f"executor {executor!r}: expected one of {', '.join(EXECUTORS)}")
    if executor == "local":
        if address is not None:
            raise UsageError(f"address {address}: only for --executor ray; add it, or leave it out")
        return None
    if address is not None and address.startswith("ray://"):
        raise UsageError(
            f"address {address}: found one of Ray's client, expected host:port; the command runs on"
            " a machine of the cluster, which sees the same folders"
        )
    return Cluster(address)
