"""Whether the weights of a checkpoint are quantised: judged by configuration, names and dtypes.

Quantised weights are codes that mean something only together with their scales; a delta of codes
is nonsense. So a quantised source is recognised before anything is read, and by what lies in the
files as well as by what config.json says.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from timberkit.checkpoint.layout import Checkpoint, TensorEntry

FP8, COMPRESSED = "fp8", "compressed-tensors"
"""Values of ``quant_method``."""

_PACKED_DTYPES: Mapping[str, str] = {"F4": "fp4", "F6_E2M3": "fp6", "F6_E3M2": "fp6"}
_INTEGERS = frozenset({"U8", "I8", "U16", "I16", "U32", "I32"})
# Tensors that only quantisers write, and the family of methods that writes them.
_NAMES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\.(qweight|qzeros|g_idx)$"), "gptq or awq"),
    (re.compile(r"\.(absmax|SCB|quant_map|nested_absmax)$|\.quant_state\."), "bitsandbytes"),
    (re.compile(r"\.weight_packed$"), "compressed-tensors"),
    (re.compile(r"(weight_scale(_\w+)?|_scale_inv)$"), "scaled weights"),
)
_WEIGHT = re.compile(r"(weight|_proj|_blocks)$")


def quantization(checkpoint: Checkpoint) -> str | None:
    """Name of the method by which the weights are quantised, or None for plain weights.

    First ``quantization_config.quant_method`` of config.json (or of its ``text_config``), then
    what the files show: FP8 and smaller dtypes, integer weights, tensors such as ``.qweight``,
    ``.absmax``, ``weight_scale`` or ``_scale_inv``. Integer buffers (position ids, masks) do not
    count. Pure; O(number of tensors).
    """
    for scope in (checkpoint.config, checkpoint.config.get("text_config")):
        named = _configured(scope)
        if named is not None:
            return named
    found = (_evidence(entry) for entry in checkpoint.tensors.values())
    return next((method for method in found if method is not None), None)


def settings_of(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """``quantization_config`` of config.json, or of its ``text_config``; empty without one."""
    for scope in (config, config.get("text_config")):
        found = scope.get("quantization_config") if isinstance(scope, Mapping) else None
        if isinstance(found, Mapping):
            return found
    return {}


def is_known_format(config: Mapping[str, Any]) -> bool:
    """Whether config.json names a format that ``dequantise`` knows: FP8 in blocks, or its own."""
    settings = settings_of(config)
    method = settings.get("quant_method")
    return method == COMPRESSED or (
        method == FP8 and isinstance(settings.get("weight_block_size"), list)
    )


def _configured(scope: Any) -> str | None:
    settings = scope.get("quantization_config") if isinstance(scope, Mapping) else None
    if not settings:
        return None
    method = settings.get("quant_method") if isinstance(settings, Mapping) else None
    return method if isinstance(method, str) and method else "of an unnamed method"


def _evidence(entry: TensorEntry) -> str | None:
    if entry.dtype.startswith("F8_"):
        return "fp8"
    if entry.dtype in _PACKED_DTYPES:
        return _PACKED_DTYPES[entry.dtype]
    for pattern, method in _NAMES:
        if pattern.search(entry.name):
            return method
    if entry.dtype in _INTEGERS and len(entry.shape) >= 2 and _WEIGHT.search(entry.name):
        return f"integers ({entry.dtype})"
    return None
