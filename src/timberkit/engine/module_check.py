"""What a plan takes tensors for, held against the model that transformers builds from config.json.

    check = check_modules(plan, instruct.config)
    check.passed, check.missed, check.mistaken

The model is built on torch's meta device, without memory for weights and without code from outside
transformers. Its parameters are named as that library would save them, and compared with the names
of the checkpoint by pattern: numbers do not count.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from timberkit.engine.plan import PlannedTensor, RefinementPlan, name_pattern
from timberkit.errors import MissingExtraError

LINEAR_FAMILIES = frozenset({"attention", "ffn", "expert", "ssm", "router", "head"})
_LINEAR_CLASSES = re.compile(r"Conv1D$|Experts|Router")
SPARE_LAYERS = 64
"""More layers than this beyond those of the checkpoint are not built."""


@dataclass(frozen=True, slots=True)
class ModuleCheck:
    """Tensors of two or more dimensions against modules; patterns of names, and how many each.

    Attributes:
        model: class that was built; empty where ``skipped`` says why none was.
        agreed: how many tensors are what the plan takes them for.
        missed: weights of linear modules, experts or routers that have another family.
        mistaken: what has the family of a linear weight and is none.
        absent: what the model does not have, or has under another name.
    """

    model: str
    skipped: str
    agreed: int
    missed: Mapping[str, int]
    mistaken: Mapping[str, int]
    absent: Mapping[str, int]

    @property
    def passed(self) -> bool:
        """Whether every tensor that could be compared is what the plan takes it for."""
        return not self.missed and not self.mistaken


def check_modules(plan: RefinementPlan, config: Mapping[str, Any]) -> ModuleCheck:
    """Compare a plan with the modules of the model that ``config`` (config.json) describes.

    Towers of other modalities are left out. Raises MissingExtraError without transformers; a model
    that it does not know, or cannot build, is ``skipped``. Cost: seconds, most of them to import.
    """
    model_type, layers = config.get("model_type"), config.get("num_hidden_layers")
    if not isinstance(model_type, str):
        return _skipped("there is no config.json that names a model type")
    if isinstance(layers, int) and layers > plan.layers + SPARE_LAYERS:
        return _skipped(f"config.json has {layers} layers, the names of tensors {plan.layers}")
    try:
        import transformers
    except ImportError:
        raise MissingExtraError("transformers", extra="eval") from None
    if model_type not in transformers.CONFIG_MAPPING:
        return _skipped(f"transformers {transformers.__version__} knows no {model_type[:60]!r}")
    try:
        model = _build(model_type, config)
        linear = _linear_patterns(model)
    # Whatever a class of the library does with sizes that it was not written for.
    except Exception as error:
        reason = str(error).split("\n")[0][:200]
        return _skipped(f"transformers cannot build it: {type(error).__name__}: {reason}")
    tensors = [t for t in plan.tensors if len(t.shape) > 1 and t.family != "vision"]
    return _compared(type(model).__name__, model.base_model_prefix, tensors, linear)


def _skipped(reason: str) -> ModuleCheck:
    return ModuleCheck("", reason, 0, {}, {}, {})


def _build(model_type: str, config: Mapping[str, Any]) -> Any:
    """The model on the meta device, by the class that config.json names or the usual one."""
    import torch
    import transformers

    described = transformers.CONFIG_MAPPING[model_type].from_dict(_decoded(dict(config)))
    named = config.get("architectures")
    known = transformers.AutoModelForCausalLM, transformers.AutoModelForImageTextToText
    listed: list[Any] = [auto._model_mapping.get(type(described), None) for auto in known]
    classes = [found for found in listed if found is not None]
    usual = [found for found in classes if isinstance(named, list) and found.__name__ in named]
    if not classes:
        raise ValueError("no language model has this configuration")
    with torch.device("meta"):
        return (usual or classes)[0](described)


def _decoded(value: Any) -> Any:
    """With the numbers that JSON lacks, which stand as ``{"__float__": "Infinity"}``, in place."""
    if isinstance(value, dict):
        if value.keys() == {"__float__"}:
            return float(value["__float__"])
        return {name: _decoded(inner) for name, inner in value.items()}
    return [_decoded(inner) for inner in value] if isinstance(value, list) else value


def _linear_patterns(model: Any) -> dict[str, bool]:
    """Pattern of each parameter, as the library saves it, to whether it is a linear weight."""
    import torch
    from transformers.core_model_loading import revert_weight_conversion

    found: dict[str, bool] = {}
    seen: set[str] = set()
    for path, module in model.named_modules():
        named = _LINEAR_CLASSES.search(type(module).__name__) is not None
        linear = isinstance(module, torch.nn.Linear) or named
        for name, parameter in module.named_parameters(recurse=False):
            full = f"{path}.{name}".removeprefix(".")
            if name_pattern(full) in seen:
                continue
            seen.add(name_pattern(full))
            is_weight = linear and "bias" not in name
            for saved in revert_weight_conversion(model, {full: parameter}):
                found[name_pattern(saved)] = is_weight
    return found


def _compared(
    model: str, prefix: str, tensors: Iterable[PlannedTensor], linear: Mapping[str, bool]
) -> ModuleCheck:
    agreed = 0
    missed: Counter[str] = Counter()
    mistaken: Counter[str] = Counter()
    absent: Counter[str] = Counter()
    for tensor in tensors:
        pattern = name_pattern(tensor.name)
        names = (pattern, f"{prefix}.{pattern}", pattern.removeprefix(f"{prefix}."))
        is_linear = next((linear[name] for name in names if name in linear), None)
        taken = tensor.family in LINEAR_FAMILIES
        if is_linear is None:
            absent[pattern] += 1
        elif is_linear == taken or tensor.family == "embedding":
            agreed += 1
        else:
            (missed if is_linear else mistaken)[pattern] += 1
    return ModuleCheck(model, "", agreed, dict(missed), dict(mistaken), dict(absent))
