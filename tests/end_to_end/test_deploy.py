"""The files under ``deploy/``: the batch script runs, with Slurm's two commands played."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "deploy" / "timberkit.sbatch"
EVALUATE = ROOT / "deploy" / "evaluate.sbatch"
RAY = shutil.which("ray", path=str(Path(sys.executable).parent))
SRUN = """#!/usr/bin/env bash
# Runs the command here, once: every machine is this one.
while [[ "${1:-}" == --* ]]; do echo "$1" >> "$CALLS"; shift; done
echo "run $*" >> "$CALLS"
exec "$@"
"""


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def free_port() -> int:
    """One that is free, as is the next, most likely."""
    with socket.socket() as free:
        free.bind(("", 0))
        return int(free.getsockname()[1])


@pytest.mark.xdist_group("ray")
@pytest.mark.skipif(RAY is None, reason="the extra ray is not installed")
def test_batch_script_starts_a_cluster_of_two_and_refines_on_it(
    commands: Any, checkpoints: Any, tmp_path: Path
) -> None:
    played = tmp_path / "bin"
    played.mkdir()
    program(played, "srun", SRUN)
    program(played, "scontrol", "#!/bin/sh\necho first\necho second\n")
    program(played, "timberkit", f'#!/bin/sh\nexec {sys.executable} -m timberkit "$@"\n')
    program(played, "ray", f'#!/bin/sh\nexec {sys.executable} -W ignore {RAY} "$@"\n')
    done = subprocess.run(
        ["bash", str(SCRIPT), "--lam", "0.5", "--quiet"],
        env={
            **commands.environment,
            "PATH": f"{played}:{os.environ['PATH']}",
            "CALLS": str(tmp_path / "calls"),
            "BASE": str(checkpoints.base),
            "INSTRUCT": str(checkpoints.instruct),
            "OUTPUT": str(tmp_path / "out"),
            "RAY_PORT": str(free_port()),
            "RAY_object_store_memory": str(80 << 20),
            "SLURM_JOB_NODELIST": "first,second",
            "SLURM_CPUS_PER_TASK": "1",
            "SLURM_JOB_ID": "7",
        },
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert checkpoints.manifest(tmp_path / "out")["variant"]["lam"] == 0.5
    calls = (tmp_path / "calls").read_text().splitlines()
    assert "--nodelist=first" in calls
    assert "--nodelist=second" in calls
    assert sum(call.startswith("run ray start") for call in calls) == 2
    alone = tmp_path / "alone"
    models = (checkpoints.base, checkpoints.instruct)
    assert commands.run("refine", *models, "-o", alone, "--lam", "0.5").exit_code == 0
    assert checkpoints.weights(tmp_path / "out") == checkpoints.weights(alone)


VLLM = """import sys
from http.server import ThreadingHTTPServer
sys.path.insert(0, {support!r})
from stub_models import StubServer, _handler, some_right

words = sys.argv[1:]
port = int(words[words.index("--port") + 1])
def answer(prompt, seed):
    with open({folder!r} + f"/asked-{{port}}", "a") as file:
        file.write("1\\n")
    return some_right(prompt, seed)
stub = StubServer(answer, served=words[words.index("--served-model-name") + 1])
ThreadingHTTPServer.request_queue_size = 128
ThreadingHTTPServer(("127.0.0.1", port), _handler(stub)).serve_forever()
"""


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_evaluation_script_shares_the_requests_among_the_servers_of_two_machines(
    commands: Any, tmp_path: Path
) -> None:
    pytest.importorskip("inspect_ai")
    played = tmp_path / "bin"
    played.mkdir()
    support = str(ROOT / "tests" / "support")
    (tmp_path / "vllm.py").write_text(VLLM.format(support=support, folder=str(tmp_path)))
    program(played, "srun", SRUN)
    program(played, "scontrol", "#!/bin/sh\necho 127.0.0.1\necho localhost\n")
    program(played, "timberkit", f'#!/bin/sh\nexec {sys.executable} -m timberkit "$@"\n')
    program(played, "vllm", f'#!/bin/sh\nexec {sys.executable} {tmp_path / "vllm.py"} "$@"\n')
    done = subprocess.run(
        ["bash", str(EVALUATE), "--task", "sapling", "--limit", "10", "-n", "8", "--quiet"],
        env={
            **commands.environment,
            "PATH": f"{played}:{os.environ['PATH']}",
            "CALLS": str(tmp_path / "calls"),
            "MODEL": "/models/refined",
            "RUN": str(tmp_path / "run"),
            "VLLM_PORT": str(free_port()),
            "SLURM_JOB_NODELIST": "two",
            "SLURM_GPUS_ON_NODE": "4",
        },
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    asked = [len(path.read_text().splitlines()) for path in tmp_path.glob("asked-*")]
    assert len(asked) == 2
    assert sum(asked) == 80
    assert min(asked) >= 20
    calls = (tmp_path / "calls").read_text()
    assert calls.count("run vllm serve /models/refined --served-model-name refined") == 2
    assert calls.count("--data-parallel-size 4") == 2


@pytest.mark.parametrize(("script", "first"), [(SCRIPT, "BASE"), (EVALUATE, "MODEL")])
def test_batch_script_says_what_it_was_not_given(script: Path, first: str) -> None:
    done = subprocess.run(
        ["bash", str(script)], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert f"{first}: " in done.stderr


def test_ray_job_mounts_the_shared_volume_in_every_pod_and_its_entrypoint_parses() -> None:
    job = yaml.safe_load((ROOT / "deploy" / "rayjob.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec = job["spec"]["rayClusterSpec"]
    (workers,) = spec["workerGroupSpecs"]
    assert workers["minReplicas"] <= workers["replicas"] <= workers["maxReplicas"]
    images = set()
    for group in (spec["headGroupSpec"], workers):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        images.add(container["image"])
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        (mount,) = container["volumeMounts"]
        assert mount["name"] in {volume["name"] for volume in pod["volumes"]}
        words = job["spec"]["entrypoint"].split()
        assert all(word.startswith(mount["mountPath"]) for word in words if word[0] == "/")
    assert len(images) == 1
    cores = workers["rayStartParams"]["num-cpus"]
    assert workers["template"]["spec"]["containers"][0]["resources"]["limits"]["cpu"] == cores


def test_entrypoint_of_the_ray_job_is_a_command_that_the_parser_takes(commands: Any) -> None:
    job = yaml.safe_load((ROOT / "deploy" / "rayjob.yaml").read_text())
    program, *words = job["spec"]["entrypoint"].split()
    assert program == "timberkit"
    done = commands.run(*words)
    # No Ray here, or no such folders: but nothing of the command line itself is wrong.
    assert "No such option" not in done.stderr
    assert done.exit_code in (2, 3)
    assert "error: " in done.stderr
