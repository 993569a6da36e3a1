"""Quantised weights turned back into BF16, by the code of the library that defines their formats.

FP8 in blocks (``quant_method: fp8`` with ``weight_block_size``, as DeepSeek-V3 and Qwen3-FP8 have
them) and the formats of compressed-tensors that say how large a weight is. The arithmetic is
compressed-tensors' own; here is which tensors belong together, and that they can.

    model = quantised_model(checkpoint)     # None for other methods: they stay refused
    plain = converted(model)

What rounding lost does not come back: a delta of such weights holds the error of the quantiser.

Not here: what counts as quantised (``quantized``), what is said of what stays refused
(``refused``), the cache (``conversion``).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timberkit.checkpoint.conversion import ForeignShard, Lazy
from timberkit.checkpoint.header import shown
from timberkit.checkpoint.layout import Checkpoint, TensorEntry
from timberkit.checkpoint.quantized import (
    COMPRESSED,
    FP8,
    is_known_format,
    quantization,
    settings_of,
)
from timberkit.checkpoint.reader import fingerprint, read_tensor
from timberkit.errors import CheckpointError, MissingExtraError

if TYPE_CHECKING:
    import torch

BLOCKS = "FP8 blocks"
DTYPE = "BF16"

# Of activations and caches: they belong to a running quantised model, and to no weight.
_NO_WEIGHT = re.compile(
    r"\.((input|output|activation|k|v|q|k_proj\.output|v_proj\.output)_scale"
    r"|(input|output)_(zero_point|global_scale))$"
)
_SCALE_INV = ".weight_scale_inv"

_Dequantise = Callable[[dict[str, "torch.Tensor"]], dict[str, "torch.Tensor"]]


@dataclass(frozen=True, slots=True)
class QuantisedModel:
    """Quantised weights of an open checkpoint as ``conversion`` takes a model.

    ``parts``: the name of each weight that comes out, to the tensors that it is made of, the codes
    first; ``shapes`` its shape; ``config``: config.json of the result.
    """

    checkpoint: Checkpoint
    kind: str
    config: Mapping[str, Any]
    parts: Mapping[str, tuple[str, ...]]
    shapes: Mapping[str, tuple[int, ...]]
    dequantise: _Dequantise = field(repr=False)

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return self.checkpoint.folder

    def look(self) -> dict[str, Any]:
        """Shards, configuration and the version of the library whose code is used."""
        settings = json.dumps(self.checkpoint.config, sort_keys=True, default=str)
        return {
            "folder": str(self.folder.resolve()),
            "shards": fingerprint(self.checkpoint),
            "config": hashlib.sha256(settings.encode()).hexdigest(),
            "library": version("compressed-tensors"),
        }

    def shards(self) -> Iterator[ForeignShard]:
        """One for each shard that holds more than scales; codes become BF16, all else is copied."""
        made = {parts[0]: name for name, parts in self.parts.items()}
        passed_over = self.used
        for shard in self.checkpoint.shards:
            tensors: dict[str, Lazy] = {}
            for entry in shard.tensors:
                if entry.name in made:
                    name = made[entry.name]
                    tensors[name] = Lazy(DTYPE, self.shapes[name], partial(self._load, name))
                elif entry.name not in passed_over:
                    load = partial(read_tensor, self.checkpoint, entry.name)
                    tensors[entry.name] = Lazy(entry.dtype, entry.shape, load)
            if tensors:
                yield ForeignShard(shard.name, shard.name, tensors)

    def left_out(self) -> tuple[str, ...]:
        """Scales of activations and caches."""
        names = self.checkpoint.tensors.keys() - self._made_of
        return tuple(sorted(name for name in names if _NO_WEIGHT.search(name)))

    @property
    def used(self) -> frozenset[str]:
        """Tensors that are not in the result under their own name: parts of weights, left out."""
        return self._made_of | {*self.left_out()}

    @property
    def _made_of(self) -> frozenset[str]:
        return frozenset(part for parts in self.parts.values() for part in parts)

    def _load(self, name: str) -> torch.Tensor:
        import torch

        stored = {part: read_tensor(self.checkpoint, part) for part in self.parts[name]}
        try:
            found = self.dequantise(stored)[name]
        except Exception as error:
            # The library checks little: what does not fit fails somewhere in its arithmetic.
            raise CheckpointError(
                f"{self.folder}: {shown(name)} cannot be dequantised ({type(error).__name__}:"
                f" {str(error)[:200]}); codes and scales do not fit; download the model again"
            ) from None
        if tuple(found.shape) != self.shapes[name] or found.dtype != torch.bfloat16:
            raise CheckpointError(
                f"{self.folder}: {shown(name)} was dequantised to {list(found.shape)} of"
                f" {found.dtype}, expected {list(self.shapes[name])} of bfloat16; codes and scales"
                " do not fit"
            )
        return found


def quantised_model(checkpoint: Checkpoint) -> QuantisedModel | None:
    """The model in a form that can be dequantised; None for plain weights and for other methods.

    Reads the shapes that packed weights are stored with, a few bytes each. Raises CheckpointError
    for codes whose scales are missing or do not fit, and for a format that nothing here can read;
    MissingExtraError without compressed-tensors.
    """
    if not is_known_format(checkpoint.config):
        return None
    settings = settings_of(checkpoint.config)
    if settings.get("quant_method") == FP8:
        model = _fp8_model(checkpoint, settings["weight_block_size"])
    else:
        model = _compressed_model(checkpoint)
    _refuse_leftovers(model)
    return model


def _plain_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json without any word of quantisation."""
    kept = {name: value for name, value in config.items() if name != "quantization_config"}
    nested = kept.get("text_config")
    if isinstance(nested, Mapping):
        kept["text_config"] = _plain_config(nested)
    return kept


# ---- FP8 in blocks ---------------------------------------------------------------------------


def _fp8_model(checkpoint: Checkpoint, blocks: list[Any]) -> QuantisedModel:
    if len(blocks) != 2 or not all(type(side) is int and 0 < side < 1 << 20 for side in blocks):
        raise CheckpointError(
            f"{checkpoint.folder / 'config.json'}: weight_block_size is {shown(blocks)}, expected"
            " two sides such as [128, 128]"
        )
    tensors, parts, shapes = checkpoint.tensors, {}, {}
    for scale in tensors.values():
        if not scale.name.endswith(_SCALE_INV):
            continue
        name = scale.name.removesuffix("_scale_inv")
        codes = tensors.get(name)
        if codes is None or codes.dtype != "F8_E4M3":
            found = "no such tensor" if codes is None else codes.dtype
            raise CheckpointError(
                f"{checkpoint.folder}: {shown(scale.name)} scales {shown(name)}: found {found},"
                " expected codes in F8_E4M3"
            )
        _check_blocks(checkpoint.folder, codes, scale, blocks)
        parts[name], shapes[name] = (name, scale.name), codes.shape
    if not parts:
        raise CheckpointError(
            f"{checkpoint.folder}: config.json says that weights are in FP8 blocks, and no tensor"
            " ends in .weight_scale_inv; the wrong config.json, or a format of another kind"
        )
    library = _library()

    def dequantise(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        # For one module each: among all of them it would search a list for every tensor.
        modules = [name.removesuffix(".weight") for name in stored if name.endswith(".weight")]
        only = library.FP8BlockDequantizer(targets=modules, weight_block_size=tuple(blocks))
        found: dict[str, torch.Tensor] = only.process(stored)
        return found

    config = _plain_config(checkpoint.config)
    return QuantisedModel(checkpoint, BLOCKS, config, parts, shapes, dequantise)


def _check_blocks(folder: Path, codes: TensorEntry, scale: TensorEntry, blocks: list[int]) -> None:
    expected = tuple(-(-side // block) for side, block in zip(codes.shape, blocks, strict=False))
    if len(codes.shape) != 2 or scale.shape != expected:
        raise CheckpointError(
            f"{folder}: {shown(codes.name)} of shape {list(codes.shape)} has scales of shape"
            f" {list(scale.shape)}, expected {list(expected)}, one for each block of"
            f" {blocks[0]} x {blocks[1]}"
        )


# ---- compressed-tensors ----------------------------------------------------------------------


def _compressed_model(checkpoint: Checkpoint) -> QuantisedModel:
    library = _library()
    try:
        dequantizer = library.CompressedTensorsDequantizer(str(checkpoint.folder))
        needed = {name: dequantizer.get_dependencies(name) for name in checkpoint.tensors}
    except Exception as error:
        # pydantic, regular expressions and look-ups by name, all on what a stranger wrote.
        raise CheckpointError(
            f"{checkpoint.folder / 'config.json'}: quantization_config cannot be read by"
            f" compressed-tensors ({type(error).__name__}); it is damaged or needs a newer version"
        ) from None
    parts, shapes = {}, {}
    for codes, others in needed.items():
        entry = checkpoint.tensors[codes]
        if not others or not _is_quantised(entry):
            continue
        missing = [name for name in sorted(others) if name not in checkpoint.tensors]
        if missing:
            raise CheckpointError(
                f"{checkpoint.folder}: {shown(codes)} has no {shown(missing[0])}, which its format"
                " needs; an incomplete download, or a format of another version"
            )
        name = f"{codes.rpartition('.')[0]}.weight"
        parts[name], shapes[name] = (codes, *sorted(others)), _shape(checkpoint, codes)
    return QuantisedModel(
        checkpoint, COMPRESSED, _plain_config(checkpoint.config), parts, shapes, dequantizer.process
    )


def _is_quantised(entry: TensorEntry) -> bool:
    return not entry.name.endswith(".weight") or entry.dtype in ("F8_E4M3", "I8")


def _shape(checkpoint: Checkpoint, codes: str) -> tuple[int, ...]:
    """Shape of the weight: that of its codes, or the one that lies beside packed ones."""
    entry = checkpoint.tensors[codes]
    if codes.endswith(".weight"):
        return entry.shape
    module = codes.rpartition(".")[0]
    if entry.dtype == "U8" and f"{module}.weight_global_scale" in checkpoint.tensors:
        return (*entry.shape[:-1], 2 * entry.shape[-1])  # NVFP4: two codes a byte
    beside = f"{module}.weight_shape"
    if beside not in checkpoint.tensors:
        raise CheckpointError(
            f"{checkpoint.folder}: {shown(codes)} is packed and has no shape beside it"
            f" ({shown(beside)}); this format is not supported; give the unquantised original"
        )
    place = checkpoint.tensors[beside]
    found = read_tensor(checkpoint, beside).tolist() if place.shape == (2,) else None
    rows, columns = entry.shape if len(entry.shape) == 2 else (0, 0)
    # 32 bits a word and one bit a code, at most: a shape from a stranger asks for memory.
    if not found or found[0] != rows or not 0 < found[1] <= columns * 32:
        raise CheckpointError(
            f"{checkpoint.folder}: {shown(beside)} says {shown(found)} of codes of shape"
            f" {list(entry.shape)}; expected as many rows, and columns that fit; the file is"
            " damaged: download it again"
        )
    return tuple(found)


# ---- both ------------------------------------------------------------------------------------


def _refuse_leftovers(model: QuantisedModel) -> None:
    """Raise CheckpointError where the result would still hold codes or scales."""
    used = model.used
    rest = (entry for name, entry in model.checkpoint.tensors.items() if name not in used)
    for entry in rest:
        alone = Checkpoint(model.folder, (), {entry.name: entry}, None, {})
        # Codes in the order of activations: the library would put them into the wrong columns.
        if quantization(alone) is not None or entry.name.endswith("_g_idx"):
            raise CheckpointError(
                f"{model.folder}: {shown(entry.name)} ({entry.dtype}) is left over when the weights"
                f" are dequantised ({model.kind}): codes without scales, scales of nothing, or an"
                " order of columns that is not supported; give the unquantised original"
            )


def _library() -> Any:
    try:
        version("compressed-tensors")
    except PackageNotFoundError:
        raise MissingExtraError("compressed-tensors", extra="quantized") from None
    from compressed_tensors.entrypoints.convert import converters

    return converters
