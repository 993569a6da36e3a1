"""Refusals: the documented exit code, one message on stderr, and nothing under the final name."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

USAGE, BAD_INPUT = 2, 3

Refuse = Callable[..., str]


@pytest.fixture
def refuse(commands: Any, tmp_path: Path) -> Refuse:
    """Run a refinement that must be refused and return the message."""

    def run(code: int, *args: object) -> str:
        before = sorted(os.listdir(tmp_path))
        done = commands.run("refine", *args, cwd=tmp_path)
        assert done.exit_code == code, done.stderr
        left = set(os.listdir(tmp_path)) - set(before)
        assert left <= {".out.timberkit-stage"}
        message: str = done.error
        return message

    return run


@pytest.fixture
def pair(checkpoints: Any, tmp_path: Path) -> tuple[Path, Path]:
    """Copies of the embedded pair that may be damaged."""
    copies: tuple[Path, Path] = checkpoints.copies(tmp_path / "pair")
    return copies


def edit_weights(folder: Path, checkpoints: Any, change: Callable[[Any], None]) -> None:
    tensors = checkpoints.read(folder)
    change(tensors)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def edit_config(folder: Path, **fields: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize("args", [("refine", "--no-such-flag"), ("no-such-command",)], ids=str)
def test_unknown_words_exit_2(commands: Any, args: tuple[str, ...]) -> None:
    done = commands.fresh(*args)
    assert done.exit_code == USAGE
    assert done.stdout == ""
    assert "Error: No such" in done.stderr
    assert args[-1] in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (("--lam", 1.5), "lam"),
        (("--lam", -0.1), "lam"),
        (("--lam", "nan"), "lam"),
        (("--method", "merge"), "mu"),
        (("--method", "merge", "--lam", 0.5), "lam"),
        (("--variant", "timber:lambda=0.5"), "lambda"),
        (("--variant", "tinder"), "tinder"),
        (("--variant", "timber-l", "--variant", "timber-l"), "timber-l given more than once"),
        (("--variant", "timber-l", "--lam", 0.3), "--variant"),
        (("--families", "attention,teapots"), "families"),
        (("--layers", "9-4"), "backwards"),
        (("--layers", "50"), "no tensor is left to refine"),
        (("--include", "*.teapot.*"), "no tensor is left to refine"),
        (("--dtype", "int8"), "dtype"),
        (("--device", "abacus"), "device"),
        (("--config", "absent.yaml"), "absent.yaml"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else None,
)
def test_wrong_options_exit_2_and_name_the_option(
    refuse: Refuse, checkpoints: Any, flags: tuple[object, ...], told: str
) -> None:
    message = refuse(USAGE, checkpoints.base, checkpoints.instruct, "-o", "out", *flags)
    assert told in message


def test_missing_words_exit_2_and_show_what_to_write(refuse: Refuse, checkpoints: Any) -> None:
    assert "BASE and INSTRUCT" in refuse(USAGE, "-o", "out")
    assert "INSTRUCT not given" in refuse(USAGE, checkpoints.base, "-o", "out")
    assert "-o FOLDER" in refuse(USAGE, checkpoints.base, checkpoints.instruct)


def test_unknown_field_in_a_config_exits_2(refuse: Refuse, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("base: a/b\ninstruct: a/c\nlambda: 0.5\n")
    assert "recipe.yaml:3:1: lambda" in refuse(USAGE, "--config", "recipe.yaml", "-o", "out")


@pytest.mark.parametrize("flags", [(), ("--overwrite",)], ids=str)
def test_folder_of_the_user_is_never_replaced(
    refuse: Refuse, checkpoints: Any, tmp_path: Path, flags: tuple[str, ...]
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("the only copy")
    message = refuse(USAGE, checkpoints.base, checkpoints.instruct, "-o", "out", *flags)
    assert str(tmp_path / "out") in message
    assert checkpoints.hashes(tmp_path / "out").keys() == {"thesis.txt"}


def test_existing_output_is_refused_without_overwrite(
    refuse: Refuse, commands: Any, checkpoints: Any, tmp_path: Path
) -> None:
    command = (checkpoints.base, checkpoints.instruct, "-o", "out")
    assert commands.run("refine", *command, cwd=tmp_path).exit_code == 0
    before = checkpoints.hashes(tmp_path / "out")
    assert "--overwrite" in refuse(USAGE, *command, "--lam", 0.5)
    assert checkpoints.hashes(tmp_path / "out") == before


@pytest.mark.parametrize(
    ("output", "relation"),
    [("pair/base/out", "lies inside"), ("pair/instruct", "is"), ("pair", "contains")],
)
@pytest.mark.parametrize("flags", [(), ("--overwrite",)], ids=str)
def test_output_in_the_way_of_a_source_is_refused(
    refuse: Refuse,
    pair: tuple[Path, Path],
    checkpoints: Any,
    output: str,
    relation: str,
    flags: tuple[str, ...],
) -> None:
    before = checkpoints.hashes(pair[0].parent)
    assert f"the output {relation} the source" in refuse(USAGE, *pair, "-o", output, *flags)
    assert checkpoints.hashes(pair[0].parent) == before


def test_same_folder_twice_is_refused(refuse: Refuse, checkpoints: Any) -> None:
    assert "same folder" in refuse(USAGE, checkpoints.base, checkpoints.base, "-o", "out")


def test_missing_folder_exits_3_and_is_named(refuse: Refuse, checkpoints: Any) -> None:
    message = refuse(BAD_INPUT, checkpoints.base, "./nowhere", "-o", "out")
    assert "./nowhere: no such folder" in message


def test_hub_name_without_network_exits_3_and_says_so(refuse: Refuse, checkpoints: Any) -> None:
    message = refuse(BAD_INPUT, "no-org/no-model", checkpoints.instruct, "-o", "out")
    assert "no-org/no-model" in message
    assert "HF_HUB_OFFLINE" in message


def test_different_sizes_of_model_exit_3(refuse: Refuse, pair: tuple[Path, Path]) -> None:
    edit_config(pair[0], hidden_size=512)
    assert "hidden_size is 512 in Base" in refuse(BAD_INPUT, *pair, "-o", "out")


def test_mismatching_shapes_exit_3_and_name_the_tensor(
    refuse: Refuse, pair: tuple[Path, Path], checkpoints: Any
) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    edit_weights(pair[0], checkpoints, lambda t: t.update({name: torch.zeros(3, 5)}))
    message = refuse(BAD_INPUT, *pair, "-o", "out")
    assert name in message
    assert "[3, 5] in Base" in message


def test_nan_exits_3_names_the_tensor_and_its_advice_helps(
    refuse: Refuse, commands: Any, pair: tuple[Path, Path], checkpoints: Any, tmp_path: Path
) -> None:
    name = "model.layers.1.self_attn.q_proj.weight"
    edit_weights(pair[1], checkpoints, lambda t: t[name].view(-1)[7].fill_(float("nan")))
    message = refuse(BAD_INPUT, *pair, "-o", "out")
    assert name in message
    assert "NaN" in message
    assert not (tmp_path / "out").exists()
    advised = commands.run("refine", *pair, "-o", "other", "--exclude", name, cwd=tmp_path)
    assert advised.exit_code == 0
    found, instruct = checkpoints.read(tmp_path / "other"), checkpoints.read(pair[1])
    assert checkpoints.equal({name: found[name]}, {name: instruct[name]})


def test_overflow_of_the_output_dtype_exits_3_and_names_the_tensor(
    refuse: Refuse, pair: tuple[Path, Path], checkpoints: Any, tmp_path: Path
) -> None:
    edit_weights(pair[1], checkpoints, lambda t: t["model.norm.weight"].fill_(1e6))
    message = refuse(BAD_INPUT, *pair, "-o", "out", "--dtype", "float16")
    assert "model.norm.weight" in message
    assert not (tmp_path / "out").exists()


def test_overflow_of_a_refined_weight_exits_3_and_names_the_tensor(
    refuse: Refuse, pair: tuple[Path, Path], checkpoints: Any, tmp_path: Path
) -> None:
    name = "model.layers.0.mlp.up_proj.weight"
    for folder in pair:
        edit_weights(folder, checkpoints, lambda t: t[name].view(-1)[0].fill_(1e6))
    message = refuse(BAD_INPUT, *pair, "-o", "out", "--dtype", "float16")
    assert name in message
    assert not (tmp_path / "out").exists()


def test_quantised_weights_exit_3(refuse: Refuse, pair: tuple[Path, Path]) -> None:
    edit_config(pair[1], quantization_config={"quant_method": "gptq", "bits": 4})
    message = refuse(BAD_INPUT, *pair, "-o", "out")
    assert "gptq" in message
    assert "Instruct" in message


def test_truncated_shard_exits_3(refuse: Refuse, pair: tuple[Path, Path]) -> None:
    shard = pair[1] / "model.safetensors"
    os.truncate(shard, shard.stat().st_size - 1)
    assert str(shard) in refuse(BAD_INPUT, *pair, "-o", "out")


def test_folder_without_a_manifest_cannot_be_verified(commands: Any, tmp_path: Path) -> None:
    done = commands.run("verify", tmp_path)
    assert done.exit_code == BAD_INPUT
    assert "timberkit.json" in done.error


def test_plan_refuses_as_refine_does(commands: Any, checkpoints: Any) -> None:
    done = commands.run("plan", checkpoints.base, checkpoints.instruct, "--lam", 3, "--json")
    assert done.exit_code == USAGE
    assert "lam" in done.error
