"""How answers are drawn: temperature and its kin, and where each value came from.

Later wins: the family's row in Table 4 of the paper (arXiv 2509.23595), or, for a model of no such
family, the checkpoint's own ``generation_config.json``, or timberkit's defaults (temperature 1);
then what the user gives. ``Sampling.origins`` says for every field which of them it was.

    sampling = resolve_sampling(facts, thinking=True, given={"temperature": 1.0})

A value that is None is not sent: a local model then does without it; a server uses its own default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any, Final

from timberkit.errors import CheckpointError, UsageError

PAPER = "arXiv 2509.23595, Table 4"
DEFAULT_TEMPERATURE = 1.0
DEFAULT_MAX_TOKENS = 8192

_Row = Mapping[str, float]
_ROWS: Final[Mapping[str, Mapping[bool | None, _Row]]] = {
    "llama-3.2-1b": {None: {"temperature": 0.6, "top_p": 0.9, "max_tokens": 4096}},
    "llama-3.2-3b": {None: {"temperature": 0.6, "top_p": 0.9, "max_tokens": 8192}},
    "llama-3.1-8b": {None: {"temperature": 0.6, "top_p": 0.9, "max_tokens": 8192}},
    "qwen3": {
        False: {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "max_tokens": 8192},
        True: {"temperature": 0.6, "top_p": 0.95, "top_k": 20, "max_tokens": 38912},
    },
}
# Which Llama 3 a config.json describes: (hidden_size, num_hidden_layers).
_LLAMAS = {(2048, 16): "llama-3.2-1b", (3072, 28): "llama-3.2-3b", (4096, 32): "llama-3.1-8b"}
_LLAMA_3_WORDS = 128256
_HUGE = 1e18
_SWITCHES = ("enable_thinking", "thinking")
"""Names of the variable with which chat templates turn thinking on and off."""

GREEDY = "greedy"
PRESETS = (*_ROWS, "qwen3-thinking", "qwen3-non-thinking", GREEDY)
"""Names for ``--preset``; ``greedy`` is temperature 0."""

OVERRIDABLE = (
    *("temperature", "top_p", "top_k", "min_p", "max_tokens", "stops", "chat_template_kwargs"),
)


@dataclass(frozen=True, slots=True)
class Sampling:
    """How answers are drawn from one model.

    ``temperature`` >= 0 (0: the likeliest token), ``top_p`` in (0, 1], ``top_k`` >= 1, ``min_p`` in
    [0, 1], ``max_tokens`` >= 1. ``stops``: texts at which an answer ends, and which it loses.
    ``chat_template_kwargs``: variables for the chat template. ``thinking``: what was asked for,
    None where the model has no such choice. ``origins``: field name to where its value came from;
    two samplings that differ only there are equal. UsageError for a value out of range.
    """

    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    max_tokens: int | None = None
    stops: tuple[str, ...] = ()
    chat_template_kwargs: Mapping[str, Any] = field(default_factory=dict)
    thinking: bool | None = None
    origins: Mapping[str, str] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        _check_number("temperature", self.temperature, 0, 100)
        _check_number("top_p", self.top_p, 0, 1, above=True)
        _check_number("min_p", self.min_p, 0, 1)
        _check_number("top_k", self.top_k, 1, 1 << 31, whole=True)
        _check_number("max_tokens", self.max_tokens, 1, 1 << 31, whole=True)
        for stop in self.stops:
            if not isinstance(stop, str) or not stop:
                raise UsageError(f"stops: {stop!r} is not a text; leave it out")

    def as_json(self) -> dict[str, Any]:
        """All that decides the answers, as JSON: every field but ``origins``."""
        found = {each.name: getattr(self, each.name) for each in fields(self)}
        del found["origins"]
        return found | {
            "stops": list(self.stops),
            "chat_template_kwargs": dict(self.chat_template_kwargs),
        }

    def table(self) -> list[tuple[str, str, str]]:
        """(field, value, where it came from) of every field that is set, for the reader."""
        values = self.as_json()
        return [
            (name, str(value), self.origins.get(name, "given"))
            for name, value in values.items()
            if value not in (None, [], {})
        ]


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is known of a model before it is asked; for a server, little more than its names."""

    names: tuple[str, ...]
    config: Mapping[str, Any] = field(default_factory=dict)
    generation_config: Mapping[str, Any] = field(default_factory=dict)
    chat_template: str | None = None
    files_known: bool = False

    @property
    def thinking_switch(self) -> str | None:
        """The variable by which the chat template turns thinking on and off, None without one."""
        words = set(re.findall(r"\w+", self.chat_template or ""))
        return next((name for name in _SWITCHES if name in words), None)


def preset(family: str, thinking: bool | None = None) -> Sampling:
    """One row of Table 4, or ``greedy``.

    ``thinking`` chooses among the rows of a family that has it (Qwen3; None: thinking, as its chat
    template does by itself) and is left aside for others. Raises UsageError for an unknown name.

    >>> preset("qwen3", thinking=False).top_p
    0.8
    """
    if family not in PRESETS:
        raise UsageError(f"preset {family!r}: unknown; choose one of {', '.join(PRESETS)}")
    if family == GREEDY:
        return Sampling(temperature=0.0, origins={"temperature": "preset greedy"})
    if family.endswith("-thinking"):
        thinking = family == "qwen3-thinking"
        family = "qwen3"
    rows = _ROWS[family]
    chosen = None if None in rows else thinking is not False
    row: Mapping[str, Any] = rows[chosen]
    name = family if chosen is None else f"{family} {'' if chosen else 'non-'}thinking"
    origins = dict.fromkeys(row, f"preset {name} ({PAPER})")
    found = Sampling(**row, thinking=chosen, origins=origins)
    if chosen is None:
        return found
    return _with_switch(found, "enable_thinking", chosen, f"preset {name}")


def detect_family(facts: ModelFacts) -> str | None:
    """The family of Table 4 that a model belongs to, None for any other.

    ``config.json`` decides where there is one (``model_type``, and for Llama 3 its width, depth and
    vocabulary); else the names. A fine-tuned or refined model is of its parent's family.

    >>> detect_family(ModelFacts(("meta-llama/Llama-3.2-1B-Instruct",)))
    'llama-3.2-1b'
    """
    kind = facts.config.get("model_type")
    if kind in ("qwen3", "qwen3_moe"):
        return "qwen3"
    if kind == "llama":
        size = (facts.config.get("hidden_size"), facts.config.get("num_hidden_layers"))
        return _LLAMAS.get(size) if facts.config.get("vocab_size") == _LLAMA_3_WORDS else None  # type: ignore[arg-type]
    if kind is not None:
        return None
    for name in facts.names:
        text = re.sub(r"[\s_]+", "-", name.lower())
        if re.search(r"(?<![a-z0-9])qwen-?3(?![.0-9])", text):
            return "qwen3"
        for family in ("llama-3.2-1b", "llama-3.2-3b", "llama-3.1-8b"):
            if re.search(rf"{re.escape(family)}(?![a-z0-9])", text):
                return family
    return None


def resolve_sampling(
    facts: ModelFacts,
    *,
    preset_name: str | None = None,
    thinking: bool | None = None,
    raw: bool = False,
    given: Mapping[str, Any] | None = None,
) -> Sampling:
    """The sampling of one model, every field with its origin.

    ``preset_name``: one of ``PRESETS``, None to go by the model. ``thinking``: None for what the
    model does by itself. ``raw``: prompts without a chat template, where thinking has no meaning.
    ``given``: fields of ``OVERRIDABLE`` that win over everything; ``top_k`` 0 turns it off, and
    ``chat_template_kwargs`` are added to the others.

    Raises UsageError for an unknown preset or field, a value out of range, and thinking asked of a
    model whose chat template has no switch for it; CheckpointError for a ``generation_config.json``
    that holds something else than numbers.
    """
    given = dict(given or {})
    unknown = sorted(set(given) - set(OVERRIDABLE))
    if unknown:
        raise UsageError(f"sampling: no field {unknown[0]!r}; there are {', '.join(OVERRIDABLE)}")
    family = detect_family(facts)
    own = _own_thinking(facts, thinking, raw)
    if preset_name is not None and preset_name != GREEDY:
        found = preset(preset_name, own)
    elif family is not None:
        found = preset(family, own)
    else:
        found = _from_checkpoint(facts)
    if preset_name == GREEDY:
        found = _greedy(found)
    found = _for_template(found, facts, thinking, raw)
    return _overridden(found, given)


def _own_thinking(facts: ModelFacts, thinking: bool | None, raw: bool) -> bool | None:
    """Whether a model of a family with both modes will think, None where its template decides."""
    if raw:
        return False
    if thinking is None and _instructs(facts):
        return False
    if thinking is None and facts.chat_template is not None and facts.thinking_switch is None:
        return "<think>" in facts.chat_template
    return thinking


def _instructs(facts: ModelFacts) -> bool:
    # Qwen3's non-thinking editions. Their templates know <think> all the same, to drop it.
    return any("instruct-2507" in name.lower() for name in facts.names)


def _for_template(found: Sampling, facts: ModelFacts, thinking: bool | None, raw: bool) -> Sampling:
    """Thinking as a variable of the chat template, where it has one."""
    if raw:
        return replace(found, chat_template_kwargs={}, thinking=None)
    if not facts.files_known and facts.chat_template is None:
        if thinking is None or "enable_thinking" in found.chat_template_kwargs:
            return found
        return _with_switch(found, "enable_thinking", thinking, "given")
    switch = facts.thinking_switch
    if switch is None:
        if thinking is not None and thinking != ("<think>" in (facts.chat_template or "")):
            wanted = "--thinking" if thinking else "--no-thinking"
            raise UsageError(
                f"{facts.names[0]}: its chat template has no switch for thinking, and {wanted} was"
                " given; leave that out, or set a variable with --template-arg"
            )
        return replace(found, chat_template_kwargs={})
    if thinking is not None:
        return _with_switch(found, switch, thinking, "given")
    return found


def _with_switch(found: Sampling, switch: str, thinking: bool, origin: str) -> Sampling:
    return replace(
        found,
        thinking=thinking,
        chat_template_kwargs={switch: thinking},
        origins={**found.origins, "thinking": origin, "chat_template_kwargs": origin},
    )


def _greedy(found: Sampling) -> Sampling:
    return replace(
        found,
        temperature=0.0,
        top_p=None,
        top_k=None,
        min_p=None,
        origins={**found.origins, "temperature": "preset greedy"},
    )


def _from_checkpoint(facts: ModelFacts) -> Sampling:
    """What ``generation_config.json`` says, if it says that answers are sampled at all."""
    found = facts.generation_config
    origin = "generation_config.json"
    values: dict[str, Any] = {}
    if found.get("do_sample") is True:
        for name in ("temperature", "top_p", "top_k", "min_p"):
            value = _number(found, name)
            if value is not None and not (name == "top_k" and value <= 0):
                values[name] = int(value) if name == "top_k" else value
    longest = _number(found, "max_new_tokens")
    if longest is not None:
        values["max_tokens"] = int(longest)
    origins = dict.fromkeys(values, origin)
    if "temperature" not in values:
        # What transformers means by a file that samples and names no temperature.
        values["temperature"] = DEFAULT_TEMPERATURE
        origins["temperature"] = "default: nothing is known of this model"
    if "max_tokens" not in values:
        values["max_tokens"] = DEFAULT_MAX_TOKENS
        origins["max_tokens"] = "default"
    try:
        return Sampling(**values, origins=origins)
    except UsageError as error:
        raise CheckpointError(
            f"{facts.names[0]}: {origin}: {error}; mend the file, or give the value yourself"
        ) from None


def _number(found: Mapping[str, Any], name: str) -> float | None:
    value: float | None = found.get(name)
    if value is None:
        return None
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not -_HUGE < value < _HUGE:
        raise CheckpointError(
            f"generation_config.json: {name} is {str(value)[:80]!r}, expected a number; mend the"
            " file, or choose a preset"
        )
    return value


def _overridden(found: Sampling, given: Mapping[str, Any]) -> Sampling:
    changes = dict(given)
    if changes.get("top_k") == 0:
        changes["top_k"] = None
    if "stops" in changes:
        changes["stops"] = tuple(changes["stops"])
    if "chat_template_kwargs" in changes:
        changes["chat_template_kwargs"] = {
            **found.chat_template_kwargs,
            **changes["chat_template_kwargs"],
        }
    origins = {**found.origins, **dict.fromkeys(changes, "given")}
    return replace(found, **changes, origins=origins)


def _check_number(
    name: str,
    value: object,
    least: float,
    most: float,
    *,
    whole: bool = False,
    above: bool = False,
) -> None:
    if value is None:
        return
    kinds: tuple[type, ...] = (int,) if whole else (int, float)
    good = isinstance(value, kinds) and not isinstance(value, bool)
    if not good or not (least <= value <= most) or (above and value == least):  # type: ignore[operator]
        bounds = f"{'above' if above else 'at least'} {least} and at most {most}"
        raise UsageError(
            f"{name}: found {str(value)[:80]}, expected a {'whole ' if whole else ''}number"
            f" {bounds}"
        )
