"""Where q, k, v, gate and up lie in a fused weight, asked of the models that transformers builds.

What a layout calls q may be doubled and what it calls k halved, or v doubled and the output
projection halved, and every channel of up multiplied by a power of two and divided by it in down:
the model computes the same if, and only if, these rows and columns are what the layout says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import transformers
from architecture_zoo import SIZES, ZOO, build, is_vision, without_bars
from safetensors.torch import load_file, save_file

from timberkit.checkpoint import fused
from timberkit.checkpoint.families import classify
from timberkit.checkpoint.fused import Matrix, split_tensor
from timberkit.checkpoint.index import open_checkpoint
from timberkit.config import Selection

TOKENS = torch.arange(24).reshape(2, 12) * 3 + 3
SPLIT = {
    **dict.fromkeys(("phi3", "gpt-neox", "gpt2", "bloom", "mpt", "persimmon"), "q k v"),
    **dict.fromkeys(("falcon", "falcon-7b", "falcon-rw"), "q k v"),
    **dict.fromkeys(("glm", "glm4", "llama4", "granite-moe", "granite-moe-shared"), "gate up"),
    "qwen3-vl-moe": "gate up",
    "phi3": "q k v gate up",
}
"""Architecture to the parts of its fused weights."""
OUT = ("o_proj", "dense", "c_proj", "out_proj")
DOWN = ("down_proj", "output_linear")
PAIRS = {"q": ("q", "k"), "v": ("v", OUT), "up": ("up", DOWN)}

Tensors = dict[str, torch.Tensor]


class Model:
    """A saved model, computed with other weights."""

    def __init__(self, architecture: str, folder: Path) -> None:
        with torch.random.fork_rng(devices=[]), without_bars():
            torch.manual_seed(0)
            model = build(architecture, torch.float32)
            for parameter in model.parameters():
                # Matrices large enough to matter; biases stay zero, norms one.
                if parameter.ndim > 1:
                    parameter.data.normal_(std=0.2)
            model.save_pretrained(folder)
        kind = "ImageTextToText" if is_vision(architecture) else "CausalLM"
        self._auto = getattr(transformers, f"AutoModelFor{kind}")
        self._folder = folder
        self.config = open_checkpoint(folder).config
        self.tensors = load_file(folder / "model.safetensors")

    def logits(self, tensors: Tensors) -> torch.Tensor:
        save_file(tensors, self._folder / "model.safetensors", {"format": "pt"})
        with without_bars(), torch.no_grad():
            found: torch.Tensor = self._auto.from_pretrained(self._folder)(TOKENS).logits
        return found

    def matrices(self, name: str) -> tuple[Matrix, ...]:
        shape = tuple(self.tensors[name].shape)
        kind = classify(name, shape).kind
        if kind not in ("attention", "ffn", "expert"):
            return ()
        return split_tensor(name, shape, kind, Selection(), self.config).matrices


@pytest.fixture(scope="module")
def model_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Model]:
    made: dict[str, Model] = {}

    def make(architecture: str) -> Model:
        if architecture not in made:
            made[architecture] = Model(architecture, tmp_path_factory.mktemp("fused"))
        return made[architecture]

    return make


def scaled(model: Model, part: str | tuple[str, ...], power: int) -> Tensors:
    """All tensors, those of a module, or this part of the fused ones, times two to that power."""
    tensors = {name: tensor.clone() for name, tensor in model.tensors.items()}
    for name, tensor in tensors.items():
        if isinstance(part, tuple):
            module = name.split(".")[-2 if name.endswith(".weight") else -1]
            owners = (found for other in beside(tensors, name) for found in model.matrices(other))
            if module in part and {found.part for found in owners} & {"v", "up"}:
                scale(tensor, power, by_channel=part == DOWN)
            continue
        for matrix in model.matrices(name):
            if matrix.part == part:
                runs = (matrix.runs, matrix.block), (matrix.stride, 1), matrix.start
                seen = tensor.view(-1).as_strided(*runs)
                weight = seen.clone().reshape(matrix.rows, matrix.cols)
                seen.copy_(scale(weight, power, by_channel=part == "up").reshape(seen.shape))
    return tensors


def scale(weight: torch.Tensor, power: int, *, by_channel: bool) -> torch.Tensor:
    """In place by a factor, or by one for each channel of a feed-forward block."""
    if not by_channel:
        return weight.mul_(2.0**power)
    hidden = SIZES["hidden_size"]
    axis = next(axis for axis in (-1, -2) if weight.shape[axis] != hidden)
    powers = torch.arange(weight.shape[axis]) % 3 * power
    return weight.mul_(torch.exp2(powers).unsqueeze(-1) if axis == -2 else torch.exp2(powers))


def beside(tensors: Tensors, name: str) -> Iterator[str]:
    """Tensors of the same block, such as all of one self_attn."""
    depth = 2 if name.endswith(".weight") else 1
    block = name.split(".")[:-depth]
    return (other for other in tensors if other.split(".")[: len(block)] == block)


@pytest.mark.parametrize(
    ("architecture", "part"),
    [(name, part) for name, parts in SPLIT.items() for part in PAIRS if part in parts.split()],
)
def test_a_layout_is_that_of_the_model(
    architecture: str, part: str, model_of: Callable[[str], Model]
) -> None:
    model = model_of(architecture)
    first, second = PAIRS[part]
    original = model.logits(model.tensors)
    doubled = scaled(model, first, 1)
    assert not torch.allclose(model.logits(doubled), original, rtol=1e-3, atol=1e-3)
    other = scaled(model, second, -1)
    changed = {name: doubled[name] + other[name] - tensor for name, tensor in model.tensors.items()}
    torch.testing.assert_close(model.logits(changed), original, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("architecture", SPLIT)
def test_the_parts_of_a_weight_are_all_of_it_once(
    architecture: str, model_of: Callable[[str], Model]
) -> None:
    model = model_of(architecture)
    parts = set()
    for name, tensor in model.tensors.items():
        counted = torch.zeros(tensor.numel(), dtype=torch.int)
        for matrix in model.matrices(name):
            runs = (matrix.runs, matrix.block), (matrix.stride, 1), matrix.start
            counted.as_strided(*runs).add_(1)
            parts.add(matrix.part)
        if model.matrices(name):
            assert set(counted.tolist()) == {1}
    assert parts - {None} == set(SPLIT[architecture].split())


def test_no_other_architecture_has_a_weight_that_is_split(
    model_of: Callable[[str], Model],
) -> None:
    for architecture in ZOO.keys() - SPLIT.keys():
        model = model_of(architecture)
        parts = {matrix.part for name in model.tensors for matrix in model.matrices(name)}
        assert parts <= {None}, architecture


@pytest.mark.parametrize("model_type", fused._STACKED_EXPERTS)
def test_stacked_experts_are_what_transformers_makes_of_single_ones(model_type: str) -> None:
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    found = {
        str(step.target_patterns): step
        for step in get_checkpoint_conversion_mapping(model_type)
        if hasattr(step, "operations")
    }
    [gate_up] = (step for target, step in found.items() if "experts.gate_up_proj" in target)
    [down] = (step for target, step in found.items() if "experts.down_proj" in target)
    assert re.search(r"(gate_proj|w1)\.", gate_up.source_patterns[0])
    assert re.search(r"(up_proj|w3)\.", gate_up.source_patterns[1])
    assert re.search(r"(down_proj|w2)\.", down.source_patterns[0])
    steps = [[(type(o).__name__, o.dim) for o in step.operations] for step in (gate_up, down)]
    assert steps == [[("MergeModulelist", 0), ("Concatenate", 1)], [("MergeModulelist", 0)]]
