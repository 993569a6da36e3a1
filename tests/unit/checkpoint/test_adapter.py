"""Adapters as strangers write them: a plain LoRA for this Base, or an error that says why not."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from timberkit.checkpoint.adapter import CONFIG, WEIGHTS, is_adapter, open_adapter
from timberkit.checkpoint.index import open_checkpoint
from timberkit.checkpoint.layout import Checkpoint
from timberkit.errors import CheckpointError, PairMismatchError

Q = "model.layers.0.self_attn.q_proj"
E = "model.embed_tokens"
PREFIX = "base_model.model."


@pytest.fixture
def base(tmp_path: Path) -> Checkpoint:
    (tmp_path / "base").mkdir()
    weights = {f"{Q}.weight": torch.ones(6, 4), f"{E}.weight": torch.ones(9, 4)}
    weights["lm_head.weight"] = torch.ones(9, 4)
    save_file(weights, tmp_path / "base" / "model.safetensors")
    return open_checkpoint(tmp_path / "base")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "adapter"
    place.mkdir()
    config = {"peft_type": "LORA", "r": 2, "lora_alpha": 4, "target_modules": ["q_proj"]}
    (place / CONFIG).write_text(json.dumps(config))
    tensors = {
        f"{PREFIX}{Q}.lora_A.weight": torch.ones(2, 4),
        f"{PREFIX}{Q}.lora_B.weight": torch.ones(6, 2),
        f"{PREFIX}{E}.lora_embedding_A": torch.ones(2, 9),
        f"{PREFIX}{E}.lora_embedding_B": torch.ones(4, 2),
        f"{PREFIX}{E}.base_layer.weight": torch.ones(9, 4),
        f"{PREFIX}lm_head.weight": torch.ones(9, 4),
    }
    save_file(tensors, place / WEIGHTS)
    return place


def set_config(folder: Path, **settings: Any) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | settings))


def edit(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def test_factors_whole_weights_and_embeddings_are_found(folder: Path, base: Checkpoint) -> None:
    found = open_adapter(folder, base)
    update = found.updates[f"{Q}.weight"]
    assert (update.rank, update.factor, update.turned) == (2, 2.0, False)
    assert found.updates[f"{E}.weight"].turned
    assert found.whole == {"lm_head.weight": f"{PREFIX}lm_head.weight"}
    assert found.changed == {f"{Q}.weight", f"{E}.weight", "lm_head.weight"}


@pytest.mark.parametrize(
    ("settings", "factor"),
    [
        ({"use_rslora": True}, 4 / 2**0.5),
        ({"alpha_pattern": {"q_proj": 10}}, 5.0),
        ({"alpha_pattern": {"self_attn.q_proj": 6, "q_proj": 10}}, 3.0),
        ({"alpha_pattern": {"proj": 10}}, 2.0),  # no end of a name between dots
        ({"lora_alpha": 0.5}, 0.25),
    ],
)
def test_factor_is_peft_s(
    folder: Path, base: Checkpoint, settings: dict[str, Any], factor: float
) -> None:
    set_config(folder, **settings)
    assert open_adapter(folder, base).updates[f"{Q}.weight"].factor == factor


def test_what_is_an_adapter(folder: Path, base: Checkpoint) -> None:
    assert is_adapter(folder)
    assert not is_adapter(base.folder)
    save_file({"a": torch.ones(1)}, folder / "model.safetensors")
    assert not is_adapter(folder)  # a model that also holds an adapter


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"peft_type": "IA3"}, "peft_type is 'IA3', expected LORA"),
        ({"peft_type": None}, "expected LORA"),
        ({"use_dora": True}, "use_dora is set"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights is 'pissa'"),
        ({"init_lora_weights": "olora"}, "starts from another Base"),
        ({"init_lora_weights": ["gaussian"]}, "starts from another Base"),
        ({"lora_bias": True}, "lora_bias is set"),
        ({"target_parameters": ["experts.gate_up_proj"]}, "target_parameters is set"),
        ({"layer_replication": [[0, 2]]}, "layer_replication is set"),
        ({"trainable_token_indices": [1]}, "trainable_token_indices is set"),
        ({"alpha_pattern": {"(a+)+$": 3}}, "regular expressions are not run"),
        ({"rank_pattern": [1]}, "expected names of modules"),
        ({"rank_pattern": {"q_proj": 3}}, "has rank 2, and adapter_config.json says 3"),
        ({"r": 10**12}, "expected a number above 0"),
        ({"r": "2"}, "r is '2'"),
        ({"lora_alpha": True}, "lora_alpha is True"),
        ({"lora_alpha": float("nan")}, "expected a number above 0"),
        ({"lora_alpha": -1}, "expected a number above 0"),
        ({"lora_alpha": None}, "expected a number above 0"),
    ],
)
def test_configurations_of_anything_else_are_refused(
    folder: Path, base: Checkpoint, settings: dict[str, Any], said: str
) -> None:
    set_config(folder, **settings)
    with pytest.raises(CheckpointError, match=said.replace("(", r"\(")):
        open_adapter(folder, base)


def swap(name: str, value: torch.Tensor | None) -> Callable[[dict[str, torch.Tensor]], Any]:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors.pop(name, None)
        if value is not None:
            tensors[name] = value

    return change


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (swap(f"{PREFIX}{Q}.lora_B.weight", None), CheckpointError, "has only A"),
        (swap(f"{PREFIX}{Q}.lora_A.weight", None), CheckpointError, "has only B"),
        (swap(f"{PREFIX}{Q}.lora_B.weight", torch.ones(6, 3)), PairMismatchError, "no delta of"),
        (swap(f"{PREFIX}{Q}.lora_B.weight", torch.ones(4, 2)), PairMismatchError, "no delta of"),
        (swap(f"{PREFIX}{Q}.lora_A.weight", torch.ones(2, 2, 2)), PairMismatchError, "no delta"),
        (swap(f"{PREFIX}lm_head.weight", torch.ones(11, 4)), PairMismatchError, "was grown"),
        (swap(f"{PREFIX}{Q}.weight", torch.ones(6, 4)), CheckpointError, "expected one of the two"),
        (swap(f"{Q}.lora_A.weight", torch.ones(2, 4)), CheckpointError, "has A twice"),
        (swap(f"{PREFIX}{E}.base_layer.weight", torch.zeros(9, 4)), PairMismatchError, "is not"),
        (swap(f"{PREFIX}{E}.base_layer.weight", torch.ones(10, 4)), PairMismatchError, "was grown"),
        (swap(f"{PREFIX}of.elsewhere.weight", torch.ones(2)), PairMismatchError, "does not have"),
        (swap(f"{PREFIX}x.lora_A.weight", torch.ones(2, 2)), PairMismatchError, "'x.weight'"),
        (
            swap(f"{PREFIX}{Q}.lora_A.weight", torch.ones(2, 4, dtype=torch.int8)),
            CheckpointError,
            "is I8",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(
    folder: Path,
    base: Checkpoint,
    change: Callable[[dict[str, torch.Tensor]], Any],
    error: type[Exception],
    said: str,
) -> None:
    edit(folder, change)
    with pytest.raises(error, match=said):
        open_adapter(folder, base)


def test_a_tied_pair_of_which_one_is_adapted_is_refused(folder: Path, base: Checkpoint) -> None:
    config = base.folder / "config.json"
    config.write_text(json.dumps({"tie_word_embeddings": True}))
    assert open_adapter(folder, open_checkpoint(base.folder)).changed  # both are
    edit(folder, swap(f"{PREFIX}lm_head.weight", None))
    with pytest.raises(PairMismatchError, match="only, which config"):
        open_adapter(folder, open_checkpoint(base.folder))


def test_pickled_adapters_and_links_are_refused(
    folder: Path, base: Checkpoint, tmp_path: Path
) -> None:
    (folder / WEIGHTS).rename(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="no adapter_model"):
        open_adapter(folder, base)
    (folder / WEIGHTS).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CheckpointError, match="leads out of the folder"):
        open_adapter(folder, base)


def test_weights_without_factors_are_no_lora(folder: Path, base: Checkpoint) -> None:
    save_file({f"{PREFIX}lm_head.weight": torch.ones(9, 4)}, folder / WEIGHTS)
    with pytest.raises(CheckpointError, match="holds no lora_A and lora_B"):
        open_adapter(folder, base)
