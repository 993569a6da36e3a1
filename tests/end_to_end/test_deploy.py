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
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    done = subprocess.run(
        ["bash", str(SCRIPT), "--lam", "0.5", "--quiet"],
        env={
            **commands.environment,
            "PATH": f"{played}:{os.environ['PATH']}",
            "CALLS": str(tmp_path / "calls"),
            "BASE": str(checkpoints.base),
            "INSTRUCT": str(checkpoints.instruct),
            "OUTPUT": str(tmp_path / "out"),
            "RAY_PORT": str(port),
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


def test_batch_script_says_what_it_was_not_given(tmp_path: Path) -> None:
    done = subprocess.run(
        ["bash", str(SCRIPT)], env={"PATH": os.environ["PATH"]}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode != 0
    assert "BASE: the Base model" in done.stderr


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
