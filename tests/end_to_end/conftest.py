"""Commands as processes, and checkpoints small enough to refine in a moment."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from timberkit.sapling import base_folder, instruct_folder

LIMIT_SECONDS = 120


@dataclass(frozen=True)
class Finished:
    """How a command ended; the exit code is negative when a signal ended it."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """What ``--json`` printed: all of stdout must be one JSON value."""
        return json.loads(self.stdout)

    @property
    def error(self) -> str:
        """The one message of a refused command: on stderr, after the last state of a progress bar.

        No traceback, no warning, nothing on stdout.
        """
        assert self.stdout == ""
        bar, start, message = self.stderr.rpartition("error: ")
        assert start, self.stderr
        phases = ("refine ", "convert ", "diff ", "analyze ", "hidden states ")
        assert all(line.startswith(phases) for line in bar.splitlines()), self.stderr
        return message


@dataclass
class Running:
    """A command that may still be at work."""

    pid: int
    out: Path
    ask: Callable[[dict[str, Any]], Any]
    exit_code: int | None = None

    def ended(self) -> bool:
        """Whether it has ended, whatever the reason."""
        if self.exit_code is None:
            self.exit_code = self.ask({"poll": self.pid})["exit_code"]
        return self.exit_code is not None

    def wait(self, seconds: float = LIMIT_SECONDS) -> Finished:
        """Wait for its end."""
        wait_for(self.ended, seconds)
        assert self.exit_code is not None
        return Finished(self.exit_code, self.stdout, Path(f"{self.out}.stderr").read_text())

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return Path(f"{self.out}.stdout").read_text()

    def wait_until(self, condition: Callable[[], object]) -> None:
        """Wait for something it is to do before it ends."""
        wait_for(lambda: bool(condition()) or self.ended())
        assert not self.ended(), "it ended before"

    def send(self, number: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if not self.ended():
            os.kill(self.pid, number)


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    """Return as soon as the condition holds; fail when it does not within the time."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, f"nothing happened within {seconds} s"
        time.sleep(0.01)


@dataclass
class Commands:
    """Starts ``timberkit`` commands in an environment of their own, without network."""

    folder: Path
    started: list[Running] = field(default_factory=list)
    _server: subprocess.Popen[str] | None = None

    @property
    def environment(self) -> dict[str, str]:
        """What every command sees: home and cache folder of its own, no network."""
        own = {"HOME": self.folder / "home", "XDG_CACHE_HOME": self.folder / "cache"}
        dropped = {"PYTHONWARNINGS", "TIMBERKIT_CACHE"}
        kept = {name: value for name, value in os.environ.items() if name not in dropped}
        more = {"HF_HUB_OFFLINE": "1", "COLUMNS": "200", "NO_COLOR": "1"}
        return {**kept, **{name: str(path) for name, path in own.items()}, **more}

    def fresh(self, *args: object, cwd: Path | None = None) -> Finished:
        """Run ``python -m timberkit ARGS`` in a new interpreter, as from a shell."""
        return self.fresh_in(cwd or self.folder, {}, *args)

    def fresh_in(self, cwd: Path, more: Mapping[str, str], *args: object) -> Finished:
        """The same with more in its environment, for what is read when modules are imported."""
        done = subprocess.run(
            [sys.executable, "-m", "timberkit", *map(str, args)],
            cwd=cwd, env={**self.environment, **more}, capture_output=True, text=True,
            timeout=LIMIT_SECONDS, check=False,
        )  # fmt: skip
        return Finished(done.returncode, done.stdout, done.stderr)

    def start(
        self, *args: object, cwd: Path | None = None, more: Mapping[str, str] | None = None
    ) -> Running:
        """Start the same in a process forked from one that has imported everything.

        ``more``: what its environment has besides.
        """
        out = self.folder / f"command-{len(self.started)}"
        order: dict[str, Any] = {
            "args": list(map(str, args)),
            "cwd": str(cwd or self.folder),
            "environment": dict(more or {}),
            "stdout": f"{out}.stdout",
            "stderr": f"{out}.stderr",
        }
        for stream in ("stdout", "stderr"):
            Path(order[stream]).touch()
        self.started.append(Running(self.ask(order)["pid"], out, self.ask))
        return self.started[-1]

    def run(self, *args: object, cwd: Path | None = None) -> Finished:
        """Start it and wait for its end."""
        return self.start(*args, cwd=cwd).wait()

    def ask(self, order: dict[str, Any]) -> Any:
        """Send an order to the forking process, which starts with the first one."""
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("warm_commands.py"))],
                env=self.environment, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.write(json.dumps(order) + "\n")
        self._server.stdin.flush()
        return json.loads(self._server.stdout.readline())

    def close(self) -> None:
        """End what is left."""
        for command in self.started:
            command.send(signal.SIGKILL)
        if self._server is not None:
            self._server.communicate(timeout=30)


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """``commands.run("refine", …)``; see ``Commands``."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "home").mkdir()
    started = Commands(folder)
    yield started
    started.close()


@pytest.fixture(scope="session")
def commands_of_a_session(commands: Commands) -> Commands:
    """The same, where a module calls something else ``commands``."""
    return commands


Tensors = Mapping[str, torch.Tensor]


class Checkpoints:
    """Writing, reading and comparing checkpoint folders, and the pairs made of them."""

    base = base_folder()
    instruct = instruct_folder()

    @staticmethod
    def copies(folder: Path) -> tuple[Path, Path]:
        """Own copies of the embedded pair, to be moved or damaged."""
        for source in (Checkpoints.base, Checkpoints.instruct):
            shutil.copytree(source, folder / source.name)
        return folder / "base", folder / "instruct"

    @staticmethod
    def write(folder: Path, shards: Sequence[Tensors], **config: Any) -> Path:
        """A checkpoint with these shards, an index when there are several, and a config."""
        folder.mkdir(parents=True)
        names = [f"model-{i + 1:05}-of-{len(shards):05}.safetensors" for i in range(len(shards))]
        if len(shards) == 1:
            names = ["model.safetensors"]
        for name, tensors in zip(names, shards, strict=True):
            save_file(dict(tensors), folder / name, metadata={"format": "pt"})
        if len(shards) > 1:
            pairs = zip(names, shards, strict=True)
            weight_map = {tensor: name for name, tensors in pairs for tensor in tensors}
            index = {"metadata": {}, "weight_map": weight_map}
            (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
        return folder

    @staticmethod
    def read(folder: Path) -> dict[str, torch.Tensor]:
        """All tensors of a folder, read by the safetensors library."""
        found: dict[str, torch.Tensor] = {}
        for path in sorted(folder.glob("*.safetensors")):
            found |= load_file(path)
        return found

    @staticmethod
    def formats(folder: Path) -> set[str | None]:
        """What the shards of a folder say about their ``format``."""
        found = set()
        for path in folder.glob("*.safetensors"):
            with safe_open(path, "pt") as file:
                found.add((file.metadata() or {}).get("format"))
        return found

    @staticmethod
    def equal(first: Tensors, second: Tensors) -> bool:
        """Whether both hold the same names with tensors of equal dtype and bits."""
        return first.keys() == second.keys() and all(
            first[name].dtype == second[name].dtype
            and torch.equal(as_bytes(first[name]), as_bytes(second[name]))
            for name in first
        )

    @staticmethod
    def weights(folder: Path) -> dict[str, str]:
        """Hash of every file with weights, in sub-folders too."""
        found = Checkpoints.hashes(folder)
        return {name: sha256 for name, sha256 in found.items() if name.endswith(".safetensors")}

    @staticmethod
    def hashes(folder: Path) -> dict[str, str]:
        """Hash of every file, by relative name."""
        return {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted(folder.rglob("*"))
            if path.is_file()
        }

    @staticmethod
    def manifest(folder: Path) -> Any:
        """``timberkit.json`` of an output."""
        return json.loads((folder / "timberkit.json").read_text())

    @staticmethod
    def journal(output: Path) -> list[str]:
        """Keys of the tasks that the unfinished run of an output has noted as done."""
        path = output.parent / f".{output.name}.timberkit-stage" / "journal.jsonl"
        lines = path.read_text().split("\n")[:-1] if path.exists() else []
        entries = (json.loads(line)["entry"] for line in lines)
        return [entry["key"] for entry in entries if "key" in entry]

    @staticmethod
    def rehash(folder: Path) -> None:
        """Make the manifest's hashes fit the files again, as a careful forger would."""
        manifest = Checkpoints.manifest(folder)
        del (hashes := Checkpoints.hashes(folder))["timberkit.json"]
        (folder / "timberkit.json").write_text(json.dumps({**manifest, "files": hashes}))


def as_bytes(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().reshape(-1).view(torch.uint8)


@pytest.fixture(scope="session")
def grove(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A pair of many small matrices: enough to be killed in, sharded differently on both sides."""
    shapes = {
        "input_layernorm": (96,),
        "self_attn.q_proj": (96, 96),
        "self_attn.k_proj": (48, 96),
        "mlp.up_proj": (192, 96),
        "mlp.down_proj": (96, 192),
    }
    generator = torch.Generator().manual_seed(0)
    base, instruct = {}, {}
    for layer in range(40):
        for module, shape in shapes.items():
            name = f"model.layers.{layer}.{module}.weight"
            weight = torch.randn(shape, generator=generator) * 0.02
            delta = torch.randn(shape, generator=generator) * 0.001
            base[name], instruct[name] = weight.bfloat16(), (weight + delta).bfloat16()
    place = tmp_path_factory.mktemp("grove")
    Checkpoints.write(place / "base", in_shards(base, 2))
    Checkpoints.write(place / "instruct", in_shards(instruct, 3))
    return place / "base", place / "instruct"


def in_shards(tensors: Tensors, count: int) -> list[Tensors]:
    return [dict(list(tensors.items())[i::count]) for i in range(count)]


@pytest.fixture(scope="session")
def checkpoints() -> type[Checkpoints]:
    """See ``Checkpoints``."""
    return Checkpoints
