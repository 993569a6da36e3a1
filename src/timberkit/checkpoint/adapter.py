"""A LoRA adapter as peft saves it: which weights of Base it changes, and by what.

    adapter = open_adapter(folder, base)
    adapter.updates["model.layers.0.self_attn.q_proj.weight"].factor     # alpha / r

For each module that was adapted, ``delta = factor * B A`` with A (r, in) and B (out, r), stored the
other way round for weights that are (in, out), and for embeddings. Modules that were trained whole
(``modules_to_save``) lie in the file as they are. adapter_config.json is a stranger's: what it asks
for beyond that is refused by name, and nothing of it is run as a pattern.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Set
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from timberkit.checkpoint.families import classify
from timberkit.checkpoint.header import json_object, read_shard, shown
from timberkit.checkpoint.index import LARGEST_CONFIG_BYTES, contained, read_limited
from timberkit.checkpoint.layout import FLOAT_DTYPES, Checkpoint, TensorEntry
from timberkit.checkpoint.model_card import HUB_ID
from timberkit.checkpoint.reader import read_tensor
from timberkit.checkpoint.source import ResolvedSource, public_name
from timberkit.checkpoint.writer import write_file
from timberkit.errors import CheckpointError, PairMismatchError

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
LORA = "a LoRA adapter"

_PREFIX = "base_model.model."
_FACTORS = {
    ".lora_A.weight": ("A", False),
    ".lora_B.weight": ("B", False),
    ".lora_embedding_A": ("A", True),
    ".lora_embedding_B": ("B", True),
}
_PLAIN_PATTERN = re.compile(r"[\w.]+", re.ASCII)
_NEITHER: Mapping[str, str] = {
    "use_dora": "DoRA: the lengths of columns are trained too, and the delta is not of low rank",
    "lora_bias": "biases beside the factors",
    "target_parameters": "factors of parameters that are no modules of their own",
    "layer_replication": "layers that are used several times",
    "trainable_token_indices": "single rows of an embedding",
    "alora_invocation_tokens": "an adapter that starts at some token",
    "use_qalora": "QA-LoRA",
    "use_bdlora": "block-diagonal factors",
    "monteclora_config": "MonteCLoRA",
    "velora_config": "VeLoRA",
    "kasa_config": "KaSA",
}
"""Settings that make a delta something else than B A, and what they mean."""
_PLAIN_STARTS = (None, True, False, "gaussian", "eva")
"""Values of ``init_lora_weights`` that leave Base's weight alone, which others change in peft."""


@dataclass(frozen=True, slots=True)
class LowRankUpdate:
    """``delta = factor * B A`` of one weight; ``turned``: its transpose is what is stored.

    ``a`` (rank, in) and ``b`` (out, rank) are the names of tensors of the adapter.
    """

    a: str
    b: str
    rank: int
    factor: float
    turned: bool


@dataclass(frozen=True, slots=True)
class Adapter:
    """An adapter for a Base.

    ``weights`` is its one file; ``updates`` and ``whole`` map names of Base's tensors to what is
    added to them, and to the tensor of the adapter that takes their place.
    """

    folder: Path
    weights: Checkpoint
    updates: Mapping[str, LowRankUpdate]
    whole: Mapping[str, str]
    trained_on: str | None = None
    """What it says that its Base is: a Hub id, or the name of a folder."""

    @property
    def changed(self) -> frozenset[str]:
        """Names of Base's tensors that the adapter changes."""
        return frozenset({*self.updates, *self.whole})


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter and no model of its own."""
    if not (folder / CONFIG).is_file():
        return False
    return not any(path.name != WEIGHTS for path in folder.glob("*.safetensors"))


def open_adapter(folder: Path, base: Checkpoint) -> Adapter:
    """Open and validate an adapter, and find the weights of Base that it is for.

    Raises CheckpointError for files that are broken, missing or hostile, pickled, of another kind
    of adapter, or of a LoRA that is no plain one; PairMismatchError where Base does not have the
    weights, or has them in another shape. Reads headers and the configuration.
    """
    path = contained(folder, CONFIG)
    config = json_object(read_limited(path, LARGEST_CONFIG_BYTES), str(path))
    _check_config(path, config)
    if not (folder / WEIGHTS).exists():
        raise CheckpointError(
            f"{folder}: found no {WEIGHTS}; an adapter of pickles (adapter_model.bin), or an"
            " incomplete download; load it with peft and save it anew with save_pretrained"
        )
    weights = open_weights(folder)
    tensors = weights.tensors
    factors, whole = _sorted_out(weights, base)
    updates = {
        name: _update(folder, name, found, tensors, base, config) for name, found in factors.items()
    }
    _refuse_half_a_tie(folder, {*updates, *whole}, base)
    if not updates:
        raise CheckpointError(f"{folder}: {WEIGHTS} holds no lora_A and lora_B; no LoRA adapter")
    return Adapter(folder, weights, updates, whole, _trained_on(config))


def open_weights(folder: Path) -> Checkpoint:
    """The one weight file of an adapter as a checkpoint; CheckpointError where it is broken."""
    shard = read_shard(contained(folder, WEIGHTS), WEIGHTS)
    return Checkpoint(folder, (shard,), {entry.name: entry for entry in shard.tensors}, None, {})


def name_base(folder: Path, base: ResolvedSource) -> None:
    """Write the Base of an adapter into its configuration, without a path of this machine.

    A Hub id with its revision; of a local folder what the adapter named before, unless that is a
    path too: then its last part. Not synced.
    """
    path = folder / CONFIG
    config = json_object(path.read_bytes(), str(path))
    named = config.get("base_model_name_or_path")
    if base.is_hub:
        config |= {"base_model_name_or_path": base.location, "revision": base.revision}
    elif not (isinstance(named, str) and HUB_ID.fullmatch(named)):
        config["base_model_name_or_path"] = public_name(base)
    write_file(path, json.dumps(config, indent=2, sort_keys=True).encode())


def _trained_on(config: Mapping[str, Any]) -> str | None:
    """What a configuration names as the Base: a Hub id, or the last part of a path."""
    named = config.get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        return None
    return named if HUB_ID.fullmatch(named) else PurePath(named).name


def _check_config(path: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointError(
            f"{path}: peft_type is {shown(kind)}, expected LORA; merge other adapters into their"
            " model first, with peft's model.merge_and_unload().save_pretrained(FOLDER)"
        )
    for setting, meaning in _NEITHER.items():
        if config.get(setting):
            raise CheckpointError(
                f"{path}: {setting} is set ({meaning}), expected a plain LoRA; merge it into its"
                " model first, with peft's model.merge_and_unload().save_pretrained(FOLDER)"
            )
    start = config.get("init_lora_weights")
    if not any(start is plain or start == plain for plain in _PLAIN_STARTS):
        raise CheckpointError(
            f"{path}: init_lora_weights is {shown(start)}, which starts from another Base than the"
            " one that is stored (peft changes it as it loads), so that W + B A is not the model;"
            " have peft convert the adapter (path_initial_model_for_weight_conversion), or merge it"
            " into its model first"
        )
    for pattern in ("alpha_pattern", "rank_pattern"):
        found = config.get(pattern) or {}
        wrong = [key for key in found if not _PLAIN_PATTERN.fullmatch(key)] if _is_map(found) else 0
        if wrong != []:
            raise CheckpointError(
                f"{path}: {pattern} is {shown(found)}, expected names of modules with a number"
                " each; regular expressions are not run; merge the adapter with peft first"
            )


def _is_map(found: object) -> bool:
    return isinstance(found, Mapping)


def _sorted_out(
    weights: Checkpoint, base: Checkpoint
) -> tuple[dict[str, dict[str, tuple[str, bool]]], dict[str, str]]:
    """Factors and whole weights by the tensor of Base that they are for."""
    folder, tensors = weights.folder, weights.tensors
    factors: dict[str, dict[str, tuple[str, bool]]] = {}
    whole: dict[str, str] = {}
    kept: dict[str, str] = {}
    for name, entry in tensors.items():
        if entry.dtype not in FLOAT_DTYPES:
            raise CheckpointError(
                f"{folder}: {shown(name)} is {entry.dtype}, expected F16, BF16, F32 or F64"
            )
        path = name.removeprefix(_PREFIX)
        suffix = next((suffix for suffix in _FACTORS if path.endswith(suffix)), None)
        if suffix is not None:
            which, embedded = _FACTORS[suffix]
            weight = f"{path.removesuffix(suffix)}.weight"
            if which in factors.setdefault(weight, {}):
                raise CheckpointError(f"{folder}: {shown(weight)} has {which} twice, expected once")
            factors[weight][which] = (name, embedded)
        elif path.endswith(".base_layer.weight"):
            # Base's own weight, which peft keeps beside the factors of an embedding.
            kept[path.replace(".base_layer.", ".")] = name
        else:
            whole[path.replace(".modules_to_save.", ".").replace(".base_layer.", ".")] = name
    twice = sorted(factors.keys() & whole.keys())
    if twice:
        raise CheckpointError(
            f"{folder}: {shown(twice[0])} has factors and a weight of its own, expected one of the"
            " two; merge the adapter with peft first"
        )
    missing = sorted(name for name in {*factors, *whole} if name not in base.tensors)
    if missing:
        raise PairMismatchError(
            f"{folder}: adapts {len(missing)} weights that Base does not have, such as"
            f" {shown(missing[0])}; the adapter is for another model, or a head that Base ties to"
            " its embedding: merge it with peft first"
        )
    for weight, name in whole.items():
        if tensors[name].shape != base.tensors[weight].shape:
            raise PairMismatchError(
                f"{folder}: {shown(name)} is {list(tensors[name].shape)}, and {shown(weight)} of"
                f" Base {list(base.tensors[weight].shape)}, expected equal shapes; a vocabulary"
                " that was grown: merge the adapter with peft first"
            )
    for weight, name in kept.items():
        if weight not in base.tensors or not _is_equal(weights, name, base, weight):
            raise PairMismatchError(
                f"{folder}: {shown(name)} is not {shown(weight)} of Base; the vocabulary was grown,"
                " or Base is another model: merge the adapter with peft first"
            )
    return factors, whole


def _is_equal(weights: Checkpoint, name: str, base: Checkpoint, weight: str) -> bool:
    if weights.tensors[name].shape != base.tensors[weight].shape:
        return False
    found, expected = read_tensor(weights, name), read_tensor(base, weight)
    return bool((found.double() == expected.double()).all())


def _refuse_half_a_tie(folder: Path, changed: Set[str], base: Checkpoint) -> None:
    """Raise PairMismatchError where only one of two tied weights that Base stores is adapted."""
    if base.config.get("tie_word_embeddings") is not True:
        return
    kinds = {name: classify(name, entry.shape).kind for name, entry in base.tensors.items()}
    tied = [name for name, kind in kinds.items() if kind in ("embedding", "head")]
    if "head" in kinds.values() and 0 < len(changed & set(tied)) < len(tied):
        raise PairMismatchError(
            f"{folder}: adapts {shown(sorted(changed & set(tied))[0])} only, which config.json ties"
            " to another weight that Base stores too; merge the adapter with peft first"
        )


def _update(
    folder: Path,
    weight: str,
    found: Mapping[str, tuple[str, bool]],
    tensors: Mapping[str, TensorEntry],
    base: Checkpoint,
    config: Mapping[str, Any],
) -> LowRankUpdate:
    if found.keys() != {"A", "B"}:
        raise CheckpointError(
            f"{folder}: {shown(weight)} has only {'AB'['B' in found]}, expected lora_A and lora_B"
        )
    (a, embedded), (b, _) = found["A"], found["B"]
    first, second, shape = tensors[a].shape, tensors[b].shape, base.tensors[weight].shape
    turned = embedded or config.get("fan_in_fan_out") is True
    full = (second[0], first[1]) if len(first) == len(second) == 2 else ()
    if first[:1] != second[1:] or (full[::-1] if turned else full) != shape or 0 in first:
        raise PairMismatchError(
            f"{folder}: {shown(a)} {list(first)} and {shown(b)} {list(second)} make no delta of"
            f" {list(shape)}, which {shown(weight)} of Base is; the adapter is for another model"
        )
    module = weight.removesuffix(".weight")
    rank = _setting(folder, config, "rank_pattern", "r", module)
    if rank != first[0]:
        raise CheckpointError(
            f"{folder}: {shown(a)} has rank {first[0]}, and {CONFIG} says {rank}; one of the two"
            " files is of another adapter"
        )
    alpha = _setting(folder, config, "alpha_pattern", "lora_alpha", module)
    rooted = config.get("use_rslora") is True
    return LowRankUpdate(a, b, first[0], alpha / (math.sqrt(rank) if rooted else rank), turned)


def _setting(
    folder: Path, config: Mapping[str, Any], pattern: str, name: str, module: str
) -> float:
    """A number for one module: that of the first pattern that ends its name, or the general one."""
    patterns = config.get(pattern) or {}
    value = next(
        (value for key, value in patterns.items() if f".{module}".endswith(f".{key}")),
        config.get(name),
    )
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e9:
        raise CheckpointError(
            f"{folder / CONFIG}: {name} is {shown(value)} for {shown(module)}, expected a number"
            " above 0"
        )
    return float(value)
