"""Whole commands on folders that a stranger made to break them: an error of ours, or a result.

The table says what is done to a copy of the embedded Instruct model, and with which code every
command that reads it ends. Outputs of ``refine``, ``analyze`` and ``eval`` follow below.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

DONE, CHECK_FAILED, USAGE, BAD_INPUT = 0, 1, 2, 3
MOST_ERROR_BYTES = 20_000

Damage = Callable[[Path], None]


def header(change: Callable[[dict[str, Any]], object]) -> Damage:
    """Change the header of the shard as a value; its data stay where they are."""

    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        content = path.read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        fields = json.loads(content[8 : 8 + length])
        change(fields)
        raw = json.dumps(fields).encode()
        path.write_bytes(struct.pack("<Q", len(raw)) + raw + content[8 + length :])

    return damage


def first(**values: Any) -> Damage:
    """Give the first tensor other fields."""

    def change(fields: dict[str, Any]) -> None:
        name = next(name for name in fields if name != "__metadata__")
        fields[name] |= values

    return header(change)


def named(name: str) -> Damage:
    """Give the first tensor another name."""

    def change(fields: dict[str, Any]) -> None:
        old = next(name for name in fields if name != "__metadata__")
        fields[name] = fields.pop(old)

    return header(change)


def raw_header(content: bytes, length: int | None = None) -> Damage:
    """A shard that is nothing but a header, of another length than it claims."""

    def damage(folder: Path) -> None:
        claimed = len(content) if length is None else length
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", claimed) + content)

    return damage


def config(content: str) -> Damage:
    """Another config.json."""

    def damage(folder: Path) -> None:
        (folder / "config.json").write_text(content)

    return damage


def fields_of_config(**values: Any) -> Damage:
    """The same config.json with other fields."""

    def damage(folder: Path) -> None:
        path = folder / "config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), **values}))

    return damage


def index(target: str) -> Damage:
    """An index that sends every tensor to one place, where a good shard lies."""

    def damage(folder: Path) -> None:
        content = (folder / "model.safetensors").read_bytes()
        length = struct.unpack("<Q", content[:8])[0]
        names = [name for name in json.loads(content[8 : 8 + length]) if name != "__metadata__"]
        place = folder / target
        place.parent.mkdir(parents=True, exist_ok=True)
        (folder / "model.safetensors").rename(place)
        weight_map = dict.fromkeys(names, target)
        text = json.dumps({"metadata": {}, "weight_map": weight_map})
        (folder / "model.safetensors.index.json").write_text(text)

    return damage


def linked(target: str) -> Damage:
    """The shard as a link: to itself, or to a file of somebody else's."""

    def damage(folder: Path) -> None:
        path = folder / "model.safetensors"
        path.rename(folder.parent / "elsewhere.safetensors")
        path.symlink_to(target)

    return damage


def pipe(name: str) -> Damage:
    """A named pipe, which blocks whoever opens it for reading."""

    def damage(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return damage


def written(name: str, content: bytes) -> Damage:
    """One more file."""

    def damage(folder: Path) -> None:
        (folder / name).write_bytes(content)

    return damage


HUGE = "9" * 400
DEEP = '{"a":' * 20_000 + "1" + "}" * 20_000
CARD = (
    b"---\nlicense: !!python/object/apply:os.system ['touch harmed']\n"
    b"a: &a [x,x]\nb: &b [*a,*a]\nc: [*b,*b]\ntags: &t [*t]\n---\n"
)
FOLDERS: dict[str, tuple[Damage, int]] = {
    "a header longer than the file": (raw_header(b"{}", 1 << 20), BAD_INPUT),
    "a header of 2^63 bytes": (raw_header(b"{}", (1 << 64) - 1), BAD_INPUT),
    "a header of many brackets": (raw_header(b'{"a":' + b"[],[]," * 2_000_000), BAD_INPUT),
    "a header nested deeply": (raw_header(DEEP.encode()), BAD_INPUT),
    "a key twice": (raw_header(b'{"a":{},"a":{}}'), BAD_INPUT),
    "a tensor over another": (first(data_offsets=[0, 4]), BAD_INPUT),
    "offsets beyond the file": (first(data_offsets=[1 << 40, (1 << 40) + 4]), BAD_INPUT),
    "offsets backwards": (first(data_offsets=[8, 4]), BAD_INPUT),
    "a negative shape": (first(shape=[-1, 4]), BAD_INPUT),
    "a shape beyond 64 bits": (first(shape=[1 << 62, 1 << 62]), BAD_INPUT),
    "a shape of zeros and giants": (first(shape=[0, 1 << 62, 1 << 62]), BAD_INPUT),
    "a shape of 10^5 dimensions": (first(shape=[1] * 100_000), BAD_INPUT),
    "an unknown dtype": (first(dtype="F128"), BAD_INPUT),
    "a name with a line break": (named("a\nerror: b"), BAD_INPUT),
    "a name with NUL": (named("a\x00b"), BAD_INPUT),
    "a name with an escape": (named("a\x1b[31mb"), BAD_INPUT),
    "a name of 10 MB": (named("x" * 10_000_000), BAD_INPUT),
    "a name that is half a surrogate": (named("\ud800"), BAD_INPUT),
    "a shard that links to itself": (linked("model.safetensors"), BAD_INPUT),
    "a shard that links outside": (linked("../elsewhere.safetensors"), BAD_INPUT),
    "a shard that is a pipe": (pipe("model.safetensors"), BAD_INPUT),
    "an index into the parent": (index("../elsewhere.safetensors"), BAD_INPUT),
    "an index with a dot": (index("./x.safetensors"), BAD_INPUT),
    "an index of numbers": (
        written("model.safetensors.index.json", b'{"weight_map":{"a":1}}'),
        BAD_INPUT,
    ),
    "an index nested deeply": (written("model.safetensors.index.json", DEEP.encode()), BAD_INPUT),
    "a pickle": (written("pytorch_model.bin", b"\x80\x04cos\nsystem\n."), DONE),
    "a configuration that is a list": (config("[]"), BAD_INPUT),
    "a configuration nested deeply": (config(DEEP), BAD_INPUT),
    "a configuration of one long number": (config(f'{{"hidden_size": {HUGE * 20}}}'), BAD_INPUT),
    "a configuration that is a pipe": (pipe("config.json"), BAD_INPUT),
    "numbers as texts": (fields_of_config(hidden_size="8", num_hidden_layers="x"), DONE),
    "numbers that are none": (
        fields_of_config(num_attention_heads=float("nan")),
        BAD_INPUT,
    ),
    "no sensible value": (
        fields_of_config(
            model_type=["llama"], head_dim={}, num_experts=-1, rope_scaling=[], architectures=7
        ),
        DONE,
    ),
    "a model of the author's own code": (
        fields_of_config(auto_map={"AutoModelForCausalLM": "evil.Model"}, model_type="evil"),
        DONE,
    ),
    "a tokenizer that is a pipe": (pipe("tokenizer_extra.json"), DONE),
    "tokenizer files nested deeply": (written("tokenizer_config.json", DEEP.encode()), DONE),
    "a card of tags and aliases": (written("README.md", CARD), DONE),
}
OF_BOTH = {
    "numbers as texts",
    "no sensible value",
    "a model of the author's own code",
}
"""What Base must have too, lest the two be no pair."""
ANALYZED = {"no sensible value"}


def ended_well(done: Any, expected: set[int]) -> None:
    """The code is one that was promised, and a failure is said in a message, not a traceback."""
    assert done.exit_code in expected, done.stderr
    assert "Traceback" not in done.stderr + done.stdout
    assert len(done.stderr) < MOST_ERROR_BYTES
    assert not set(done.stderr + done.stdout) & {"\x1b", "\x00", "\x07", "\u202e"}
    if done.exit_code in (USAGE, BAD_INPUT):
        assert "error: " in done.stderr


@pytest.mark.parametrize("what", FOLDERS)
def test_a_hostile_model_is_refused_or_refined(
    commands: Any, checkpoints: Any, tmp_path: Path, what: str
) -> None:
    base, instruct = checkpoints.copies(tmp_path / "pair")
    damage, expected = FOLDERS[what]
    damage(instruct)
    if what in OF_BOTH:
        damage(base)
    merged = ("refine", base, instruct, "-o", "out", "--method", "merge", "--mu", "0.5", "-q")
    ended_well(commands.run("plan", base, instruct, cwd=tmp_path), {expected})
    ended_well(commands.run(*merged, cwd=tmp_path), {expected})
    if expected == BAD_INPUT or what in ANALYZED:
        analysis = ("analyze", base, instruct, "-o", "found", "-q", "--layers", "0")
        ended_well(commands.run(*analysis, cwd=tmp_path), {expected})
    left = {"out", "found"} if expected == DONE else set()
    assert {path.name for path in tmp_path.iterdir() if path.name[0] != "."} <= {
        *("pair", "elsewhere.safetensors"),
        *left,
    }
    # A comparison reads no configuration as one, so that it tells of any.
    opened = expected == DONE or what == "numbers that are none"
    differs = CHECK_FAILED if opened else BAD_INPUT
    ended_well(commands.run("diff", base, instruct, "--layers", "0", cwd=tmp_path), {differs})
    assert not list(tmp_path.rglob("harmed"))


def test_names_in_messages_are_no_commands_to_the_terminal(commands: Any, tmp_path: Path) -> None:
    for name in ("\x1b[2J\x1b]0;title\x07x", "a\r\u202eb\x9b2J"):
        for command in (("plan", name, "b"), ("verify", name), ("report", name), ("compare", name)):
            ended_well(commands.run(*command, cwd=tmp_path), {BAD_INPUT})


@pytest.fixture(scope="module")
def made(commands: Any, checkpoints: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One output of refine, one of analyze, and one of eval."""
    place: Path = tmp_path_factory.mktemp("made")
    pair = (checkpoints.base, checkpoints.instruct)
    for command in (
        ("refine", *pair, "-o", "refined", "--method", "merge", "--mu", "0.5"),
        ("analyze", *pair, "-o", "analysis", "--layers", "0"),
        ("eval", "sapling:base", "--task", "sapling", "--limit", "1", "-n", "1", "-o", "run"),
    ):
        done = commands.run(*command, cwd=place)
        assert done.exit_code == DONE, done.stderr
    return place


def replaced(content: bytes) -> Callable[[bytes], bytes]:
    """Something else in place of a file."""
    return lambda _old: content


def with_fields(**values: Any) -> Callable[[bytes], bytes]:
    """A JSON object with other fields."""
    return lambda old: json.dumps({**json.loads(old), **values}).encode()


OUTPUTS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "a manifest that is a list": ("timberkit.json", replaced(b"[]")),
    "a manifest nested deeply": ("timberkit.json", replaced(DEEP.encode())),
    "a manifest with NaN": ("timberkit.json", replaced(b'{"schema_version": NaN}')),
    "a manifest of one long number": ("timberkit.json", replaced(b'{"a":' + b"9" * 9000 + b"}")),
    "a manifest of another world": ("timberkit.json", with_fields(schema_version=10**9)),
    "a manifest of nothing": ("timberkit.json", replaced(b'{"schema_version": 1}')),
    "files that are numbers": ("timberkit.json", with_fields(files={"config.json": 1})),
    "files outside": ("timberkit.json", with_fields(files={"../../../etc/passwd": "0" * 64})),
    "files with escapes": ("timberkit.json", with_fields(files={"\x1b[31m\n\u202e": "0" * 64})),
    "records of another kind": ("timberkit.json", with_fields(refined=[None, 1, {"name": []}])),
    "a variant of another kind": ("timberkit.json", with_fields(variant=["x"], recipe={"x": 1})),
    "sources of another kind": ("timberkit.json", with_fields(sources=[1], recipe=None)),
    "tables that are none": ("*.parquet", replaced(b"PAR1 no table PAR1")),
    "tables that end early": ("*.parquet", lambda old: old[: len(old) // 2]),
    "a summary nested deeply": ("summary.json", replaced(DEEP.encode())),
    "a log that is no archive": ("logs/*/*.eval", replaced(b"PK\x03\x04 no archive")),
    "a card of tags and aliases": ("README.md", replaced(CARD)),
}


@pytest.mark.parametrize("what", OUTPUTS)
def test_an_output_from_a_stranger_is_checked_or_refused(
    commands: Any, made: Path, tmp_path: Path, what: str
) -> None:
    pattern, change = OUTPUTS[what]
    codes = []
    for kind in ("refined", "analysis", "run"):
        folder = Path(shutil.copytree(made / kind, tmp_path / kind))
        damaged = sorted(folder.glob(pattern))
        for path in damaged:
            path.write_bytes(change(path.read_bytes()))
        for command in COMMANDS[kind] if damaged else ():
            done = commands.run(*command, cwd=tmp_path)
            ended_well(done, {DONE, CHECK_FAILED, USAGE, BAD_INPUT})
            codes.append(done.exit_code)
    # What a command does not read does it no harm; somebody must notice all the same.
    assert set(codes) - {DONE}
    assert not list(tmp_path.rglob("harmed"))


COMMANDS: dict[str, tuple[tuple[str, ...], ...]] = {
    "refined": (("verify", "refined"), ("push", "refined", "org/x", "--dry-run")),
    "analysis": (("verify", "analysis"), ("report", "analysis", "-o", "page.html")),
    "run": (("compare", "run", "-q"),),
}


def test_code_in_a_models_folder_is_never_run(
    commands: Any, checkpoints: Any, tmp_path: Path
) -> None:
    """The commands that build a model with transformers, on one that brings classes of its own."""
    pytest.importorskip("transformers")
    _, instruct = checkpoints.copies(tmp_path / "pair")
    harm = f"open({str(tmp_path / 'harmed')!r}, 'w').write('x')\n"
    for name in ("evil.py", "configuration_evil.py", "modeling_evil.py", "setup.py", "conftest.py"):
        (instruct / name).write_text(harm)
    (instruct / "chat_template.jinja").write_text(
        "{{ ''.__class__.__mro__[1].__subclasses__() }}"
        "{{ cycler.__init__.__globals__.os.getcwd() }}"
        f"{{{{ self.__init__.__globals__.__builtins__.open({str(tmp_path / 'harmed')!r}, 'w') }}}}"
    )
    own = {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M", "AutoTokenizer": "evil.T"}
    one = ("--task", "sapling", "--limit", 1, "-n", 1)
    for fields in ({"auto_map": own}, {"auto_map": own, "model_type": "evil"}):
        fields_of_config(**fields)(instruct)
        for command in (
            ("plan", instruct, instruct, "--check"),
            ("analyze", instruct, instruct, "-o", "found", "-q", "--hidden-states"),
            ("eval", f"m={instruct}", *one, "-o", f"run-{len(fields)}"),
        ):
            done = commands.run(*command, cwd=tmp_path)
            ended_well(done, {DONE, CHECK_FAILED, USAGE, BAD_INPUT, 4})
    assert not (tmp_path / "harmed").exists()


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("tokenizer_config.json", ("eval", "m=models/instruct", "--task", "sapling", "--dry-run")),
        ("chat_template.jinja", ("eval", "m=models/instruct", "--task", "sapling", "--dry-run")),
        ("generation_config.json", ("eval", "m=models/instruct", "--task", "sapling", "--dry-run")),
        ("tokenizer.json", ("plan", "models/base", "models/instruct")),
        ("README.md", ("plan", "models/base", "models/instruct")),
        ("x.eval", ("compare", "models/instruct")),
        ("x.json", ("compare", "models/instruct")),
        ("samples_x.jsonl", ("compare", "models/instruct")),
        ("timberkit.json", ("verify", "models/instruct")),
        ("summary.json", ("report", "models/instruct")),
    ],
)
@pytest.mark.parametrize("kind", ["a pipe", "a link to a device", "a link to a secret"])
def test_no_command_waits_at_a_pipe_or_follows_a_link_out(
    commands: Any, checkpoints: Any, tmp_path: Path, name: str, command: tuple[str, ...], kind: str
) -> None:
    _, instruct = checkpoints.copies(tmp_path / "models")
    (tmp_path / "secret").write_text("{}canary of the owner")
    if kind == "a pipe":
        pipe(name)(instruct)
    else:
        (instruct / name).unlink(missing_ok=True)
        target = "/dev/zero" if kind == "a link to a device" else tmp_path / "secret"
        (instruct / name).symlink_to(target)
    done = commands.start(*command, cwd=tmp_path).wait(20)
    ended_well(done, {DONE, CHECK_FAILED, USAGE, BAD_INPUT})
    assert "canary" not in done.stdout + done.stderr
