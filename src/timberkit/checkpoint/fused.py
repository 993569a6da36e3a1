"""Which matrices a tensor holds: experts, and the projections that are stored as one weight.

    split = split_tensor(name, (3072, 1024), "attention", Selection(), checkpoint.config)
    split.matrices        # q, k and v of a qkv_proj, each with its rows
    split.whole_because   # or why such a weight is treated as it is stored

That a weight is fused shows in its name; how, does not: Phi-3 stacks q, k and v, GPT-NeoX does so
within each head, gpt-oss alternates gate and up. So the layout is looked up by the ``model_type``
of config.json, and its sizes must fit; where either fails, the weight is one matrix, and the plan
says why. ``tests/reference/test_fused_layouts.py`` holds the layouts against the models themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from timberkit.checkpoint.families import Matrices, matrix_shapes
from timberkit.config import Selection
from timberkit.parts import module_name

Config: TypeAlias = Mapping[str, Any]
LACKING = "config.json lacks the sizes of its parts"


@dataclass(frozen=True, slots=True)
class Matrix:
    """One matrix of a tensor, by the elements of the tensor that hold it, row by row.

    They are runs of ``block`` elements, ``stride`` elements from one start to the next, the first
    at ``start``; a matrix that lies in one piece is one run. ``index`` is the expert's number in a
    tensor of several, ``part`` the projection's name in a fused weight.
    """

    index: int | None
    part: str | None
    rows: int
    cols: int
    start: int
    block: int
    stride: int

    @property
    def runs(self) -> int:
        """How many runs hold it."""
        return self.rows * self.cols // self.block


@dataclass(frozen=True, slots=True)
class Split:
    """The matrices of a tensor; ``whole_because`` says why a fused weight is left in one."""

    matrices: tuple[Matrix, ...]
    whole_because: str = ""


@dataclass(frozen=True, slots=True)
class Fusion:
    """How projections share one axis of a weight (0: rows, 1: columns).

    The axis is ``groups`` times the ``parts`` in a row, each with its size: one group for
    projections that follow each other, one a head where they do so within each.
    """

    axis: int
    groups: int
    parts: tuple[tuple[str, int], ...]

    @property
    def size(self) -> int:
        """Length of the axis."""
        return self.groups * sum(size for _, size in self.parts)


Layout: TypeAlias = Callable[[Config, tuple[int, int]], Fusion | str]
"""From the sizes of a model and the shape of one of its weights to its fusion, or why it has none.
"""


def split_tensor(
    name: str, shape: tuple[int, ...], kind: str, selection: Selection, config: Config
) -> Split:
    """The matrices of a tensor that is selected, each refined on its own.

    ``config`` is config.json, or empty; of nested ones that of the text model counts. Raises
    ValueError for a shape that is no matrix (``matrix_shapes``). O(number of matrices).

    >>> sizes = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8}
    >>> config = {"model_type": "phi3", "hidden_size": 32, **sizes}
    >>> found = split_tensor("qkv_proj.weight", (64, 32), "attention", Selection(), config)
    >>> [(matrix.part, matrix.rows, matrix.start // 32) for matrix in found.matrices]
    [('q', 32, 0), ('k', 16, 32), ('v', 16, 48)]
    """
    if kind == "convolution" and "authors" not in selection.families:
        shape = (shape[0], math.prod(shape[1:]))
    stored = matrix_shapes(shape, selection)
    module = module_name(name)
    fusable = module in _LAYOUTS and (len(shape) == 2 or kind == "expert")
    if fusable and kind == "vision":  # config.json tells of the language model's weights
        return Split(tuple(_whole(stored)), "how a tower stores it is not known")
    if not fusable or selection.fused == "whole" or "authors" in selection.families:
        return Split(tuple(_whole(stored)))
    fusion, problem = _fusion(module, stored, _text_config(config))
    if fusion is None:
        return Split(tuple(_whole(stored)), problem)
    return Split(tuple(_parts(stored, fusion)))


def _whole(stored: Matrices) -> Iterator[Matrix]:
    elements = stored.rows * stored.cols
    for index in range(stored.count):
        number = index if stored.count > 1 else None
        start = index * elements
        yield Matrix(number, None, stored.rows, stored.cols, start, elements, elements)


def _parts(stored: Matrices, fusion: Fusion) -> Iterator[Matrix]:
    across = 1 if fusion.axis else stored.cols  # elements from one place on the axis to the next
    stride = fusion.size // fusion.groups * across
    for index in range(stored.count):
        place = index * stored.rows * stored.cols
        number = index if stored.count > 1 else None
        for part, size in fusion.parts:
            length = fusion.groups * size
            rows, cols = (stored.rows, length) if fusion.axis else (length, stored.cols)
            yield Matrix(number, part, rows, cols, place, size * across, stride)
            place += size * across


def _text_config(config: Config) -> Config:
    nested = config.get("text_config")
    return nested if isinstance(nested, Mapping) and "model_type" in nested else config


def _fusion(module: str, stored: Matrices, config: Config) -> tuple[Fusion | None, str]:
    """The fusion of a weight, or None and why it is not known."""
    model_type = config.get("model_type")
    if not isinstance(model_type, str):
        return None, "no config.json says how it is stored"
    layout = _LAYOUTS[module].get(model_type)
    if layout is None:
        return None, f"how model type {model_type[:60]!r} stores it is not known"
    if isinstance(layout, str):
        return None, layout
    try:
        fusion = layout(config, (stored.rows, stored.cols))
    except (KeyError, TypeError, ZeroDivisionError):
        return None, LACKING
    if isinstance(fusion, str):
        return None, fusion
    if min(fusion.groups, *(size for _, size in fusion.parts)) < 1:
        return None, LACKING
    found = (stored.rows, stored.cols)[fusion.axis]
    if fusion.size != found:
        axis = ("rows", "columns")[fusion.axis]
        return None, f"its {found} {axis} are not the {fusion.size} that config.json asks for"
    return fusion, ""


def _size(config: Config, *names: str) -> int:
    """The first of these fields that is there; KeyError for none, TypeError for no number."""
    for name in names:
        if config.get(name) is not None:
            if type(config[name]) is not int:
                raise TypeError(name)
            return int(config[name])
    raise KeyError(names[0])


def _heads(config: Config) -> int:
    return _size(config, "num_attention_heads", "n_head", "n_heads")


def _head_dim(config: Config) -> int:
    if config.get("head_dim") is not None:
        return _size(config, "head_dim")
    return _size(config, "hidden_size", "n_embd", "d_model") // _heads(config)


def _stacked(config: Config, shape: tuple[int, int]) -> Fusion:
    """q, k and v one after the other."""
    heads, width = _heads(config), _head_dim(config)
    pairs = _size(config, "num_key_value_heads", *("num_attention_heads", "n_head", "n_heads"))
    return Fusion(0, 1, (("q", heads * width), ("k", pairs * width), ("v", pairs * width)))


def _stacked_columns(config: Config, shape: tuple[int, int]) -> Fusion:
    """q, k and v of equal size beside each other, as Conv1D stores them: (in, out)."""
    return Fusion(1, 1, tuple((part, shape[1] // 3) for part in "qkv"))


def _by_head(config: Config, shape: tuple[int, int]) -> Fusion:
    """q, k and v within each head."""
    width = _head_dim(config)
    return Fusion(0, _heads(config), tuple((part, width) for part in "qkv"))


def _falcon(config: Config, shape: tuple[int, int]) -> Fusion:
    """Within each group of heads that share a key; within each head; or stacked with one key."""
    heads, width = _heads(config), _head_dim(config)
    if config.get("new_decoder_architecture", False):
        groups = _size(config, "num_kv_heads", "num_attention_heads")
        shared = heads // groups
        return Fusion(0, groups, (("q", shared * width), ("k", width), ("v", width)))
    if config.get("multi_query", True):
        return Fusion(0, 1, (("q", heads * width), ("k", width), ("v", width)))
    return _by_head(config, shape)


def _gate_up(config: Config, shape: tuple[int, int]) -> Fusion:
    """Gate, then up, of equal size, in the rows."""
    return Fusion(0, 1, (("gate", shape[0] // 2), ("up", shape[0] // 2)))


def _gate_up_columns(config: Config, shape: tuple[int, int]) -> Fusion:
    """The same in the columns."""
    return Fusion(1, 1, (("gate", shape[1] // 2), ("up", shape[1] // 2)))


def _gate_up_either(config: Config, shape: tuple[int, int]) -> Fusion | str:
    """In the axis that is not the hidden one: published files and newer ones differ in that."""
    hidden = _size(config, "hidden_size")
    if shape[0] == shape[1] == hidden:
        return "its rows and its columns are as many, so that gate and up may lie in either"
    return _gate_up_columns(config, shape) if shape[0] == hidden else _gate_up(config, shape)


_STACKED_EXPERTS = (
    *("qwen2_moe", "qwen3_moe", "qwen3_next", "qwen3_omni_moe_text", "mixtral", "minimax"),
    *("minimax_m2", "deepseek_v2", "deepseek_v3", "glm4_moe", "glm4_moe_lite", "dots1", "olmoe"),
    *("flex_olmo", "ernie4_5_moe", "hunyuan_v1_moe", "exaone_moe", "jamba"),
)
_LAYOUTS: Mapping[str, Mapping[str, Layout | str]] = {
    "qkv_proj": {"phi3": _stacked},
    "query_key_value": {
        **{"gpt_neox": _by_head, "bloom": _by_head, "persimmon": _by_head},
        "falcon": _falcon,
    },
    "c_attn": {"gpt2": _stacked_columns},
    "Wqkv": {"mpt": _stacked},
    **{module: {} for module in ("qkv", "wqkv", "W_pack", "att_proj")},
    **{module: {} for module in ("in_proj_qkvz", "in_proj_qkv", "in_proj_ba")},
    "gate_up_proj": {
        **{"phi3": _gate_up, "glm": _gate_up, "glm4": _gate_up},
        **{"llama4_text": _gate_up_columns, "qwen3_vl_moe_text": _gate_up_either},
        # As their classes hold them; most files have the experts one by one.
        **dict.fromkeys(_STACKED_EXPERTS, _gate_up),
        "gpt_oss": "gate and up alternate, column by column",
    },
    "input_linear": {"granitemoe": _gate_up, "granitemoeshared": _gate_up},
}
"""Module, then model type, to the layout; a text is why a known one cannot be split."""
