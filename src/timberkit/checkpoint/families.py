"""From the name of a tensor to its part in the model, and whether a recipe refines it.

Names only: nothing is read, and a name that is not recognised is ``unknown``, never guessed; the
plan lists it. Covered are the naming habits of Llama, Mistral, Mixtral, Qwen 2 and 3 (dense, MoE,
linear attention), Gemma, Phi, OLMo, GLM, DeepSeek, gpt-oss, Granite, Falcon, GPT-NeoX, GPT-2, OPT,
MPT, BLOOM, RWKV, InternLM, Mamba, Jamba, Nemotron-H and LFM; ``tests/reference`` holds them against
the modules that transformers builds. Towers of another modality (vision, audio) are ``vision``,
whatever is in them; which of their weights are linear ``is_tower_linear`` says. Projections of
state-space mixers and of gated short convolutions are ``ssm``, their own parameters ``state`` and
``convolution``.

    role = classify("model.layers.3.self_attn.q_proj.weight", (4096, 4096))
    chosen, reason = is_selected(role, recipe.selection, name, shape)
"""

from __future__ import annotations

import fnmatch
import math
import re
from collections.abc import Collection
from dataclasses import dataclass

from timberkit.config import Selection
from timberkit.parts import PARAMETER, Kind, module_name


@dataclass(frozen=True, slots=True)
class Role:
    """What a tensor is: ``layer`` and ``expert`` are its numbers, or None outside any.

    ``module`` is the short name of what holds it, such as ``q_proj``; a fused tensor of all experts
    has kind ``expert`` and no expert number.
    """

    kind: Kind
    layer: int | None
    expert: int | None
    module: str


@dataclass(frozen=True, slots=True)
class Matrices:
    """A tensor seen as ``count`` matrices of ``rows x cols``, one behind the other in its bytes."""

    count: int
    rows: int
    cols: int


_LAYER = re.compile(r"(?:^|\.)(?:layers?|h|blocks?|decoder_layers)\.(\d{1,6})(?=\.|$)", re.ASCII)
_EXPERT = re.compile(r"\.experts\.(\d{1,6})(?=\.|$)", re.ASCII)
_NORM = re.compile(r"norm|^ln(_|\d|$)|(^|_)ln$", re.IGNORECASE)
_BIAS = re.compile(r"(^|_)bias$")

_OTHER_MODALITIES = frozenset(
    {"vision_tower", "vision_model", "vision_encoder", "visual", "vision", "vision_backbone",
     "vision_embed_tokens", "vision_language_adapter", "embed_vision", "img_processor",
     "img_projection", "image_newline", "multi_modal_projector", "mm_projector", "connector",
     "audio_tower", "audio_encoder", "audio_projection", "embed_audio", "video_tower",
     "image_tower", "vision_projection", "qformer", "aligner", "embed_tokens_extend"}
)  # fmt: skip
_TOWER_LINEAR = frozenset(
    {"linear_fc1", "linear_fc2", "linear_1", "linear_2", "merging_layer",
     "mm_input_projection_weight"}
)  # fmt: skip
_STATE_SPACES = frozenset({"mamba", "ssm", "mixer"})
_STATES = frozenset({"A_log", "D", "dt_bias"})
_STATE_SPACE_PROJECTIONS = frozenset({"in_proj", "out_proj", "x_proj", "dt_proj"})
_CONVOLUTIONS = frozenset({"conv", "short_conv"})
_CONVOLUTION_PROJECTIONS = frozenset({"in_proj", "out_proj"})

_ATTENTIONS = frozenset(
    {"self_attn", "attn", "attention", "self_attention", "cross_attn", "encoder_attn",
     "linear_attn", "SelfAttention", "EncDecAttention"}
)  # fmt: skip
_ATTENTION_ALONE = frozenset(
    {"q_proj", "k_proj", "v_proj", "o_proj", "qkv_proj", "q_a_proj", "q_b_proj", "kv_a_proj",
     "kv_a_proj_with_mqa", "kv_b_proj", "query_key_value", "att_proj", "attn_out", "c_attn",
     "Wqkv", "wqkv", "W_pack"}
)  # fmt: skip
_ATTENTION_INSIDE = _ATTENTION_ALONE | {
    "q", "k", "v", "o", "wq", "wk", "wv", "wo", "query", "key", "value", "qkv", "dense", "output",
    "out", "out_proj", "c_proj", "proj", "g_proj", "gate_proj", "receptance", "Wo", "wq_a", "wq_b",
    "wkv", "wkv_b", "wkv_a_with_mqa", "kv_proj", "query_proj", "key_proj", "value_proj",
    "output_gate", "a_proj", "b_proj", "f_proj", "f_a_proj", "f_b_proj", "g_a_proj", "g_b_proj",
    "in_proj", "in_proj_qkvz", "in_proj_qkv", "in_proj_z", "in_proj_ba", "in_proj_b", "in_proj_a",
}  # fmt: skip

_FFNS = frozenset({"mlp", "ffn", "feed_forward", "ff", "mixer"})
_MIXTURES = frozenset({"mlp", "ffn", "feed_forward", "block_sparse_moe", "moe", "experts", "mixer"})
_FFN_ALONE = frozenset(
    {"gate_proj", "up_proj", "down_proj", "gate_up_proj", "fc1", "fc2", "c_fc", "ff_proj",
     "ff_out", "dense_h_to_4h", "dense_4h_to_h"}
)  # fmt: skip
_FFN_INSIDE = _FFN_ALONE | {
    "w1", "w2", "w3", "wi", "wi_0", "wi_1", "wo", "Wi", "Wo", "c_proj", "fc_in", "fc_out",
    "linear_in", "linear_out", "input_linear", "output_linear", "key", "value", "receptance",
}  # fmt: skip
_SHARED_EXPERTS = frozenset({"shared_expert", "shared_experts", "shared_mlp"})

_EMBEDDINGS = frozenset(
    {"embed_tokens", "embed_tokens_per_layer", "embed_positions", "wte", "wpe", "embed_in",
     "embedding", "embeddings", "word_embeddings", "word_embedding", "position_embeddings",
     "token_embedding", "tok_embeddings", "emb"}
)  # fmt: skip
_HEADS = frozenset({"lm_head", "embed_out"})
_HEADS_OUTSIDE_LAYERS = frozenset({"output", "output_layer", "head"})


def classify(name: str, shape: tuple[int, ...]) -> Role:
    """The part a tensor plays, from its name and number of dimensions.

    Kinds ``attention``, ``ffn``, ``router``, ``ssm``, ``embedding`` and ``head`` have two
    dimensions; ``expert`` two, or three where all experts of a layer are fused. Vectors are
    ``norm``, ``bias`` (everything additive or auxiliary) or ``state``. All else, low-rank adapters
    included, is ``unknown``. Never raises.

    >>> classify("model.layers.3.mlp.experts.17.down_proj.weight", (64, 32))
    Role(kind='expert', layer=3, expert=17, module='down_proj')
    >>> classify("model.layers.3.mlp.gate.weight", (128, 64)).kind
    'router'
    """
    parts = PARAMETER.sub("", name).split(".")
    layer, expert = _LAYER.search(name), _EXPERT.search(name)
    return Role(
        kind=_kind(name, parts, len(shape), in_layer=layer is not None),
        layer=None if layer is None else int(layer[1]),
        expert=None if expert is None else int(expert[1]),
        module=module_name(name),
    )


def module_path(name: str) -> str:
    """The words of a name that say what a tensor is in its layer: without layer and numbers.

    Outside any layer the last word. Never raises.

    >>> module_path("model.layers.3.mlp.experts.17.down_proj.weight"), module_path("lm_head.weight")
    ('mlp.experts.down_proj', 'lm_head')
    """
    stem = PARAMETER.sub("", name)
    layer = _LAYER.search(stem)
    words = stem[0 if layer is None else layer.end() :].split(".")
    words = [word for word in words if word and not word.isdigit()]
    return ".".join(words if layer is not None else words[-1:]) or stem


def _kind(name: str, parts: list[str], dimensions: int, *, in_layer: bool) -> Kind:
    module, owners = parts[-1], parts[:-1]
    if _OTHER_MODALITIES.intersection(parts):
        return "vision"
    if any("lora_" in part or part.endswith("_lora") for part in parts):
        return "unknown"
    if _NORM.search(module):
        return "norm"
    if module in _STATES:
        return "state"
    if name.endswith(".bias") or _BIAS.search(module):
        return "bias"
    if any(part.startswith("conv") or part.endswith(("conv", "conv1d")) for part in parts):
        return _convolution_kind(module, owners, dimensions)
    if dimensions < 2:
        return "norm" if name.endswith(".weight") else "bias"
    if dimensions == 3:
        return _fused_kind(module, owners)
    if dimensions > 3:
        return "unknown"
    return _matrix_kind(module, owners, in_layer=in_layer)


def _convolution_kind(module: str, owners: list[str], dimensions: int) -> Kind:
    """A convolution, or a linear projection around one (``conv.in_proj`` of LFM)."""
    around = _CONVOLUTIONS.intersection(owners[-1:]) and module in _CONVOLUTION_PROJECTIONS
    return "ssm" if around and dimensions == 2 else "convolution"


def _fused_kind(module: str, owners: list[str]) -> Kind:
    """Kind of a three-dimensional tensor: all experts of a layer, or nothing that is known."""
    fused = owners[-1:] == ["experts"] and module in _FFN_INSIDE
    granite = module in {"input_linear", "output_linear"} and _MIXTURES.intersection(owners[-1:])
    return "expert" if fused or granite else "unknown"


def _matrix_kind(module: str, owners: list[str], *, in_layer: bool) -> Kind:
    owner = owners[-1] if owners else ""
    if _is_router(module, owners):
        return "router"
    if _SHARED_EXPERTS.intersection(owners):
        return "expert" if module in _FFN_INSIDE else "unknown"
    if "experts" in owners:
        # A matrix of all experts at once has no number: its experts cannot be told apart.
        numbered = any(part.isdigit() for part in owners[owners.index("experts") + 1 :])
        return "expert" if numbered and module in _FFN_INSIDE else "unknown"
    if module in _EMBEDDINGS:
        return "embedding"
    if module in _HEADS or (owner == "shared_head" and module == "head"):
        return "head"
    if module in _HEADS_OUTSIDE_LAYERS and not in_layer:
        return "head"
    return _layer_kind(module, owner)


def _is_router(module: str, owners: list[str]) -> bool:
    if module in {"router", "shared_expert_gate"} or "router" in owners:
        return True
    gated = bool(_MIXTURES.intersection(owners[-1:])) and module == "gate"
    return gated or (module == "wg" and owners[-1:] == ["gate"])


def _layer_kind(module: str, owner: str) -> Kind:
    """Kind of a matrix inside a block, by the module around it, else by a telling name."""
    if owner in _ATTENTIONS:
        return "attention" if module in _ATTENTION_INSIDE else "unknown"
    if module in _ATTENTION_ALONE and owner not in _FFNS - {"mixer"}:
        return "attention"
    if module in _FFN_ALONE or (owner in _FFNS - {"mixer"} and module in _FFN_INSIDE):
        return "ffn"
    projects = owner in _STATE_SPACES and module in _STATE_SPACE_PROJECTIONS
    return "ssm" if projects else "unknown"


_ALL_LINEAR = frozenset({"attention", "ffn", "expert", "ssm", "router", "head"})
NOT_RECOGNISED = "name not recognised"
"""Why a tensor is copied whose name fits no rule."""
_REASONS: dict[str, str] = {
    "vision": "part of a vision or audio tower",
    "state": "state-space parameter",
    "convolution": "convolution",
    "unknown": NOT_RECOGNISED,
}


def is_selected(
    role: Role, selection: Selection, name: str, shape: tuple[int, ...]
) -> tuple[bool, str]:
    """Whether a recipe refines a tensor, and if not, why: ``(True, "")`` or ``(False, reason)``.

    A refined tensor has two or more dimensions, none of them zero; more only as fused experts, or
    as a convolution that is asked for.
    The family ``all-linear`` stands for attention, ffn, expert, ssm, router and head; ``authors``
    takes every tensor of two or more dimensions, whatever its kind. Layers, include and exclude
    patterns (``fnmatch``, case counts) apply to all. Never raises.

    >>> name = "model.layers.3.self_attn.q_proj.weight"
    >>> is_selected(classify(name, (8, 8)), Selection(layers="4-9"), name, (8, 8))
    (False, 'layer 3 not selected')
    """
    reason = (
        _family_reason(role, selection, name, shape)
        or _layer_reason(role, selection)
        or _pattern_reason(selection, name)
    )
    return not reason, reason


def is_within(role: Role, selection: Selection, name: str) -> bool:
    """Whether layers and patterns of a selection take a tensor, whatever its family.

    >>> name = "model.layers.3.input_layernorm.weight"
    >>> is_within(classify(name, (8,)), Selection(layers="0-3"), name)
    True
    """
    return not (_layer_reason(role, selection) or _pattern_reason(selection, name))


def is_tower_linear(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor of a tower, or of what joins it to the language model, is a linear weight.

    By the rules for attention and feed-forward modules, and the names that projectors have. Never
    raises; positions and patches are none.

    >>> is_tower_linear("visual.blocks.0.attn.proj.weight", (8, 8))
    True
    >>> is_tower_linear("visual.pos_embed.weight", (64, 8))
    False
    """
    parts = PARAMETER.sub("", name).split(".")
    module, owners = parts[-1], parts[:-1]
    owner = owners[-1] if owners else ""
    if len(shape) != 2 or _NORM.search(module) or _BIAS.search(module):
        return False
    if module in _TOWER_LINEAR or owners[-1:] == ["modality_projection"]:
        return True
    if module.isdigit():
        return owners[-2:] == ["merger", "mlp"]  # a Sequential, of which only linear ones are 2-D
    return _layer_kind(module, owner) in ("attention", "ffn")


def in_families(role: Role, shape: tuple[int, ...], families: Collection[str]) -> bool:
    """Whether a tensor belongs to one of the families: any kind, ``all-linear`` or ``authors``.

    >>> in_families(classify("lm_head.weight", (8, 8)), (8, 8), ["all-linear"])
    True
    """
    return (
        role.kind in families
        or ("all-linear" in families and role.kind in _ALL_LINEAR)
        or ("authors" in families and len(shape) >= 2)
    )


def _family_reason(role: Role, selection: Selection, name: str, shape: tuple[int, ...]) -> str:
    if 0 in shape:
        return "no elements"
    if "authors" in selection.families:
        return "" if len(shape) >= 2 else "one-dimensional"
    if role.kind in ("norm", "bias"):
        return role.kind
    if role.kind in _REASONS and role.kind not in selection.families:
        return _REASONS[role.kind]
    if len(shape) < 2:
        return "one-dimensional"
    if role.kind == "vision" and not is_tower_linear(name, shape):
        return "part of a tower, but no linear weight known by name"
    if len(shape) > {"expert": 3, "convolution": len(shape)}.get(role.kind, 2):
        return f"{len(shape)} dimensions"
    families = set(selection.families)
    if role.kind in families or ("all-linear" in families and role.kind in _ALL_LINEAR):
        return ""
    return f"family {role.kind} not selected"


def _layer_reason(role: Role, selection: Selection) -> str:
    if selection.has_layer(role.layer):
        return ""
    return "outside any layer" if role.layer is None else f"layer {role.layer} not selected"


def _pattern_reason(selection: Selection, name: str) -> str:
    for pattern in selection.exclude:
        if fnmatch.fnmatchcase(name, pattern):
            return f"matches exclude {pattern!r}"
    if selection.include and not any(
        fnmatch.fnmatchcase(name, pattern) for pattern in selection.include
    ):
        return "matches no include pattern"
    return ""


def matrix_shapes(shape: tuple[int, ...], selection: Selection) -> Matrices:
    """How a selected tensor splits into matrices, each refined on its own.

    ``(m, n)`` is one matrix; fused experts ``(E, a, b)`` are ``E`` of them. Under ``authors`` any
    further dimensions are flattened into the columns of one matrix, as the paper's code does, which
    decomposes fused experts across experts. Raises ValueError for other shapes.

    >>> matrix_shapes((128, 768, 2048), Selection())
    Matrices(count=128, rows=768, cols=2048)
    >>> matrix_shapes((128, 768, 2048), Selection(families=("authors",)))
    Matrices(count=1, rows=128, cols=1572864)
    """
    if len(shape) >= 2 and ("authors" in selection.families or len(shape) == 2):
        return Matrices(1, shape[0], math.prod(shape[1:]))
    if len(shape) == 3:
        return Matrices(*shape)
    raise ValueError(f"a tensor of shape {shape} is no matrix and no stack of matrices")
