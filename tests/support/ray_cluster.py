"""A Ray cluster of several nodes on this machine, in a process of its own.

    with RayCluster(nodes=2) as cluster:
        cluster.address; cluster.pids(1); cluster.kill(1); cluster.add()

Ray's warnings and threads stay in that process. Run as a script, it obeys lines on stdin.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any, Self

OBJECT_STORE_BYTES = 80 << 20


class RayCluster:
    """The cluster, as the tests command it; node 0 is the head, and takes no tasks."""

    def __init__(self, nodes: int, *, memory_bytes: int = 0) -> None:
        environment = {
            **os.environ,
            "RAY_DISABLE_IMPORT_WARNING": "1",
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_AUTH_MODE": "disabled",
            # A node that was killed is noticed soon.
            "RAY_health_check_initial_delay_ms": "500",
            "RAY_health_check_period_ms": "500",
            "RAY_health_check_failure_threshold": "3",
            "OMP_NUM_THREADS": "1",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-W", "ignore", __file__, str(nodes), str(memory_bytes)],
            env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self.address: str = self._answer()

    def kill(self, node: int) -> None:
        """End all processes of a node at once, as a power cut does."""
        self._ask({"kill": node})

    def add(self) -> int:
        """One more node; its number."""
        return int(self._ask({"add": True}))

    def add_blind(self, folder: str) -> bool:
        """One more node, which sees an empty folder in that place; False where that cannot be.

        It has a mount namespace of its own, as a machine without the shared file system has.
        """
        return bool(self._ask({"blind": folder}))

    def _ask(self, order: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> Any:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("answer "):
                return json.loads(line.removeprefix("answer "))
        raise AssertionError("the cluster ended")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.communicate(timeout=60)


def _tell(answer: object) -> None:
    print(f"answer {json.dumps(answer)}", flush=True)


def _serve(count: int, memory_bytes: int) -> None:
    from ray.cluster_utils import Cluster

    head = {
        "num_cpus": 0, "include_dashboard": False, "object_store_memory": OBJECT_STORE_BYTES,
    }  # fmt: skip
    cluster = Cluster(initialize_head=True, head_node_args=head)
    nodes = [cluster.head_node]

    def add() -> int:
        memory = {"memory": memory_bytes} if memory_bytes else {}
        nodes.append(cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE_BYTES, **memory))
        return len(nodes) - 1

    for _ in range(count):
        add()
    cluster.wait_for_nodes()
    _tell(cluster.address)
    for line in sys.stdin:
        order = json.loads(line)
        if "kill" in order:
            cluster.remove_node(nodes[order["kill"]], allow_graceful=False)
            _tell(None)
        elif "blind" in order:
            _tell(_add_blind(cluster.address, order["blind"]))
        else:
            _tell(add())
    for process in _BLIND:
        process.terminate()
        process.wait()
    cluster.shutdown()


def _add_blind(address: str, folder: str) -> bool:
    import time

    import ray

    ray.init(address=address, log_to_driver=False)
    before = len(ray.nodes())
    start = (
        f"{sys.executable} -W ignore -m ray.scripts.scripts start --address={address} --num-cpus=1"
        f" --object-store-memory={OBJECT_STORE_BYTES} --block"
    )
    process = subprocess.Popen(
        ["unshare", "-m", "sh", "-c", f"mount -t tmpfs none '{folder}' && exec {start}"],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    _BLIND.append(process)
    while process.poll() is None and len(ray.nodes()) == before:
        time.sleep(0.2)
    ray.shutdown()
    return process.poll() is None


_BLIND: list[subprocess.Popen[bytes]] = []


if __name__ == "__main__":
    _serve(*map(int, sys.argv[1:]))
