"""Refine, analyse and verify on a Ray cluster of several nodes; nodes and driver are killed."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from ray_cluster import RayCluster

from timberkit.engine.fence import OWNER

pytest.importorskip("ray")
pytestmark = pytest.mark.xdist_group("ray")

USAGE, BAD_INPUT, INTERRUPTED = 2, 3, 4
LAYERS, SIDE = 44, 512


@pytest.fixture(scope="module")
def cluster() -> Iterator[RayCluster]:
    with RayCluster(nodes=2) as running:
        yield running


@pytest.fixture(scope="module")
def pair(checkpoints: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Matrices that take a tenth of a second each: enough for a node to be killed among them."""
    generator = torch.Generator().manual_seed(0)
    base, instruct = {}, {}
    for layer in range(LAYERS):
        for module, rows in (("self_attn.q_proj", SIDE), ("mlp.up_proj", 2 * SIDE)):
            name = f"model.layers.{layer}.{module}.weight"
            weight = torch.randn((rows, SIDE), generator=generator) * 0.02
            delta = torch.randn((rows, SIDE), generator=generator) * 0.001
            base[name], instruct[name] = weight.bfloat16(), (weight + delta).bfloat16()
    place = tmp_path_factory.mktemp("pair")
    checkpoints.write(place / "base", [base])
    # Odd and even tensors in different shards: neighbours are written by different nodes.
    items = list(instruct.items())
    checkpoints.write(place / "instruct", [dict(items[0::2]), dict(items[1::2])])
    return place / "base", place / "instruct"


@pytest.fixture(scope="module")
def alone(commands: Any, pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of one worker on one machine."""
    output: Path = tmp_path_factory.mktemp("alone") / "out"
    assert commands.run("refine", *pair, "-o", output, "--workers", 1).exit_code == 0
    return output


def on(cluster: RayCluster) -> tuple[object, ...]:
    return "--executor", "ray", "--address", cluster.address


def journal_has(checkpoints: Any, output: Path, tasks: int) -> bool:
    return len(checkpoints.journal(output)) >= tasks


def test_two_nodes_write_the_bytes_of_one_worker_and_verify_agrees(
    commands: Any, checkpoints: Any, cluster: RayCluster, pair: Any, alone: Path, tmp_path: Path
) -> None:
    done = commands.run("refine", *pair, "-o", tmp_path / "out", *on(cluster))
    assert done.exit_code == 0, done.stderr
    assert checkpoints.weights(tmp_path / "out") == checkpoints.weights(alone)
    assert checkpoints.manifest(tmp_path / "out")["run"]["workers"] == 2
    assert os.listdir(tmp_path) == ["out"]
    checked = commands.run("verify", tmp_path / "out", "--sample", 4, "--json", *on(cluster))
    assert checked.exit_code == 0, checked.stderr
    names = [check["name"] for check in checked.json["checks"]]
    assert names == ["hashes", "loadable", "sources", "structure", "copies", "oracle"]


def test_verify_on_a_cluster_finds_a_changed_weight(
    commands: Any, checkpoints: Any, cluster: RayCluster, tmp_path: Path
) -> None:
    models = (checkpoints.base, checkpoints.instruct)
    assert commands.run("refine", *models, "-o", tmp_path / "out").exit_code == 0
    (shard,) = (tmp_path / "out").glob("*.safetensors")
    content = bytearray(shard.read_bytes())
    content[-400_000:] = bytes(400_000)
    shard.write_bytes(content)
    checked = commands.run("verify", tmp_path / "out", "--all", "--json", *on(cluster))
    assert checked.exit_code == 1
    failed = {check["name"] for check in checked.json["checks"] if not check["passed"]}
    assert {"hashes", "oracle"} <= failed


def test_analysis_on_a_cluster_has_the_numbers_of_one_worker(
    commands: Any, checkpoints: Any, cluster: RayCluster, tmp_path: Path
) -> None:
    models = (checkpoints.base, checkpoints.instruct, "--no-page")
    done = commands.run("analyze", *models, "-o", tmp_path / "far", *on(cluster))
    assert done.exit_code == 0, done.stderr
    near = commands.run("analyze", *models, "-o", tmp_path / "near", "--workers", 1)
    assert near.exit_code == 0
    far, here = (json.loads((tmp_path / n / "summary.json").read_text()) for n in ("far", "near"))
    assert far == here


def test_node_that_dies_in_the_middle_costs_nothing_but_time(
    commands: Any, checkpoints: Any, cluster: RayCluster, pair: Any, alone: Path, tmp_path: Path
) -> None:
    doomed = cluster.add()
    running = commands.start("refine", *pair, "-o", tmp_path / "out", *on(cluster))
    running.wait_until(lambda: journal_has(checkpoints, tmp_path / "out", 1))
    cluster.kill(doomed)
    assert not running.ended()
    done = running.wait()
    assert done.exit_code == 0, done.stderr
    assert checkpoints.weights(tmp_path / "out") == checkpoints.weights(alone)


def test_killed_driver_is_continued_to_the_same_bytes(
    commands: Any, checkpoints: Any, cluster: RayCluster, pair: Any, alone: Path, tmp_path: Path
) -> None:
    running = commands.start("refine", *pair, "-o", tmp_path / "out", *on(cluster))
    running.wait_until(lambda: journal_has(checkpoints, tmp_path / "out", 1))
    running.send(signal.SIGKILL)
    assert running.wait().exit_code == -signal.SIGKILL
    stage = tmp_path / ".out.timberkit-stage"
    old = (stage / OWNER).read_text()
    noted = len(checkpoints.journal(tmp_path / "out"))
    again = commands.start("refine", *pair, "-o", tmp_path / "out", "--json", *on(cluster))
    again.wait_until(lambda: (stage / OWNER).read_text() != old)
    done = again.wait()
    assert done.exit_code == 0, done.stderr
    assert done.json["resumed"] is True
    assert 0 < noted < 2 * LAYERS  # the rest was left
    assert checkpoints.weights(tmp_path / "out") == checkpoints.weights(alone)
    assert os.listdir(tmp_path) == ["out"]


def test_one_machine_continues_what_a_cluster_began(
    commands: Any, checkpoints: Any, cluster: RayCluster, pair: Any, alone: Path, tmp_path: Path
) -> None:
    running = commands.start("refine", *pair, "-o", tmp_path / "out", *on(cluster))
    running.wait_until(lambda: journal_has(checkpoints, tmp_path / "out", 1))
    running.send(signal.SIGKILL)
    running.wait()
    done = commands.run("refine", *pair, "-o", tmp_path / "out", "--workers", 1)
    assert done.exit_code == 0, done.stderr
    assert checkpoints.weights(tmp_path / "out") == checkpoints.weights(alone)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda n: n.name)
def test_stopped_run_ends_within_two_seconds(
    commands: Any,
    checkpoints: Any,
    cluster: RayCluster,
    pair: Any,
    tmp_path: Path,
    number: signal.Signals,
) -> None:
    running = commands.start("refine", *pair, "-o", tmp_path / "out", *on(cluster))
    running.wait_until(lambda: journal_has(checkpoints, tmp_path / "out", 1))
    sent = time.monotonic()
    running.send(number)
    stopped = running.wait(seconds=10)
    assert time.monotonic() - sent < 2
    assert stopped.exit_code == INTERRUPTED
    assert "the same command continues" in stopped.error
    # Whatever is still at work somewhere finds that the stage has no owner any more.
    assert not (tmp_path / ".out.timberkit-stage" / OWNER).exists()


def test_error_of_a_task_ends_the_run_as_it_does_on_one_machine(
    commands: Any, checkpoints: Any, cluster: RayCluster, tmp_path: Path
) -> None:
    weight = torch.randn((64, 64), generator=torch.Generator().manual_seed(0)).bfloat16()
    name = "model.layers.0.self_attn.q_proj.weight"
    broken = weight.clone()
    broken[3, 4] = float("nan")
    checkpoints.write(tmp_path / "base", [{name: weight}])
    checkpoints.write(tmp_path / "instruct", [{name: broken}])
    models = (tmp_path / "base", tmp_path / "instruct")
    far = commands.run("refine", *models, "-o", tmp_path / "far", *on(cluster))
    near = commands.run("refine", *models, "-o", tmp_path / "near", "--workers", 1)
    assert (far.exit_code, far.error) == (near.exit_code, near.error)
    assert far.exit_code == BAD_INPUT


def test_machines_that_cannot_take_part_are_named_before_any_work(
    commands: Any, checkpoints: Any, tmp_path: Path
) -> None:
    shared = tmp_path / "shared"
    base, instruct = checkpoints.copies(shared)
    with RayCluster(nodes=1, memory_bytes=300 << 20) as mixed:
        # Ray would wait for a larger machine for ever.
        done = commands.run("refine", base, instruct, "-o", tmp_path / "out", *on(mixed))
        assert done.exit_code == BAD_INPUT
        assert "no machine of the cluster has more than 0.3 GB" in done.error
        if not mixed.add_blind(str(shared)):
            pytest.skip("this system lets nobody make a mount namespace")
        done = commands.run("refine", base, instruct, "-o", tmp_path / "out", *on(mixed))
        assert done.exit_code == BAD_INPUT
        assert done.error.startswith("machine ")
        assert f"{base}/model.safetensors: cannot be read: No such file" in done.error
        assert "mount the same folders on every machine" in done.error
        # The sources are seen, but not the place of the output.
        models = (checkpoints.base, checkpoints.instruct)
        done = commands.run("refine", *models, "-o", shared / "out", *on(mixed))
        assert done.exit_code == BAD_INPUT
        assert "expected to be shared" in done.error
        assert checkpoints.journal(shared / "out") == []


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (("--executor", "ray", "--address", "127.0.0.1:1"), "no Ray cluster at 127.0.0.1:1"),
        (("--executor", "ray", "--address", "ray://head:10001"), "expected host:port"),
        (("--executor", "spark"), "expected one of local, ray"),
        (("--address", "127.0.0.1:1"), "only for --executor ray"),
    ],
)
def test_wrong_cluster_is_refused_before_anything_is_written(
    commands: Any, checkpoints: Any, tmp_path: Path, flags: tuple[str, ...], said: str
) -> None:
    models = (checkpoints.base, checkpoints.instruct)
    done = commands.run("refine", *models, "-o", tmp_path / "out", *flags)
    assert done.exit_code == USAGE
    assert said in done.error
    assert not (tmp_path / "out").exists()
