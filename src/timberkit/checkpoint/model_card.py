"""The README.md of an output: where it comes from, for people and for the hub.

Everything here may be hostile: names, revisions and the licence come from other people's files. In
the front matter stand only values that match a narrow pattern, written by a YAML library; in the
text every mark that Markdown or HTML would act on is escaped.

The relation to the sources is stated as ``merge``. The hub knows adapter, finetune, merge and
quantized; nothing was trained here, and the weights are a function of two models. It would guess
``merge`` from two entries by itself, but ``finetune`` from one, when the other source is a local
folder.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

import yaml

from timberkit.checkpoint.writer import write_file

CARD_NAME = "README.md"
PAPER = "2509.23595"

_LARGEST_FRONT_MATTER_CHARACTERS = 64 << 10
_LONGEST_TEXT = 200
_FRONT_MATTER = re.compile(r"\A\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]{0,95}(?:/[A-Za-z0-9][\w.-]{0,95})?", re.ASCII)
_LICENCE_PATTERNS = {
    "license": re.compile(r"[a-z0-9][a-z0-9.+-]{0,63}"),
    "license_name": re.compile(r"[A-Za-z0-9][A-Za-z0-9 .+_-]{0,95}"),
    "license_link": re.compile(r"[A-Za-z0-9][\w.:/%#?=&~+-]{0,299}", re.ASCII),
}
_PIPELINE_TAG = re.compile(r"[a-z0-9]+(?:-[a-z0-9]+){0,9}", re.ASCII)
_LONGEST_PIPELINE_TAG = 64
_MARKS = re.compile(r"([\\`*_\[\]<>|#&~!$])")


_FROM_MODEL = """\
An Instruct model edited with the help of its Base, without training. In each refined weight the
difference `W_instruct - W_base`, the delta, was treated as the method says; all other tensors are
those of Instruct, bit for bit unless another dtype was asked for. Tokenizer, template and
configuration are those of Instruct."""
_FROM_ADAPTER = """\
What a LoRA adapter adds to its Base, edited without training. In each refined weight the delta, the
product of the adapter's factors, was treated as the method says; other weights that it adapts have
theirs whole, all others are Base's. Configuration and licence are those of Base, tokenizer and
template those of the adapter where it has them."""


@dataclass(frozen=True, slots=True)
class CardSource:
    """One source as the card names it: a hub id, or a local folder of which only the name shows.

    ``converted_from`` says what its weights were before they were converted, None of plain ones.
    """

    name: str
    is_hub: bool
    revision: str | None = None
    converted_from: str | None = None


def read_licence(folder: Path) -> dict[str, str]:
    """The licence fields of the front matter of ``folder/README.md``, as strings.

    Keys ``license``, ``license_name``, ``license_link``, each only where it is present and looks
    like one; empty without a model card (``front_matter``). Never raises for content.
    """
    fields = front_matter(folder)
    found = {}
    for key, pattern in _LICENCE_PATTERNS.items():
        value = fields.get(key)
        if isinstance(value, str) and pattern.fullmatch(value):
            found[key] = value
    return found if "license" in found else {}


def read_pipeline_tag(folder: Path) -> str | None:
    """What the model card of ``folder`` says the model is for, such as ``text-generation``.

    None where it says nothing, or something that does not look like it. Never raises for content.
    """
    value = front_matter(folder).get("pipeline_tag")
    return value if isinstance(value, str) and _is_pipeline_tag(value) else None


def front_matter(folder: Path) -> dict[str, Any]:
    """The front matter of ``folder/README.md``: strings, lists, mappings, as a stranger wrote it.

    Empty when the file is missing, broken, or anything but a model card. Never raises for content.
    Reads 64 Ki characters at most. Of an alias its name is read, ``*name``.
    """
    path = folder / CARD_NAME
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8") as file:
            match = _FRONT_MATTER.match(file.read(_LARGEST_FRONT_MATTER_CHARACTERS))
        fields = yaml.load(match[1], Loader=_CardLoader) if match else None  # noqa: S506
    except (OSError, ValueError, OverflowError, RecursionError, yaml.YAMLError):
        # PyYAML lets a ValueError or OverflowError out for escapes beyond Unicode.
        return {}
    return fields if isinstance(fields, dict) else {}


class _CardLoader(yaml.BaseLoader):
    """Strings, lists and mappings only: no tag has an effect, and an alias stays its own name.

    A few nested aliases are gigabytes once they are written out, and one may hold itself.
    """

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            event = self.get_event()  # type: ignore[no-untyped-call]
            return yaml.ScalarNode("tag:yaml.org,2002:str", f"*{event.anchor}")
        return super().compose_node(parent, index)


def write_model_card(
    target: Path,
    *,
    base: CardSource,
    instruct: CardSource,
    method: str,
    explanation: str,
    reference: str,
    parameters: Mapping[str, object],
    families: Sequence[str],
    tool_version: str,
    command: Sequence[str],
    licence: Mapping[str, str],
    pipeline_tag: str | None = None,
    caution: str = "",
    adapter: bool = False,
    from_adapter: bool = False,
) -> None:
    """Write ``target/README.md``; not synced.

    ``explanation`` says in a sentence what the method does, ``reference`` where it comes from.
    ``command`` is the argument vector that makes the output again, ``licence`` what
    ``read_licence`` found with Instruct, ``pipeline_tag`` what ``read_pipeline_tag`` did,
    ``caution`` a sentence that a reader should not miss; ``adapter``: it is a LoRA adapter for
    Base; ``from_adapter``: Instruct is one.
    ``base_model`` names hub ids only: a local folder's name would point at a stranger's
    repository. Raises InterruptedRunError when the disk is full.
    """
    front_matter = yaml.safe_dump(
        _metadata(base, instruct, method, licence, pipeline_tag, adapter=adapter),
        sort_keys=False,
        allow_unicode=True,
    )
    body = _body(
        base, instruct, method, explanation, reference, parameters, families, tool_version, command,
        caution, _FROM_ADAPTER if from_adapter else _FROM_MODEL,
    )  # fmt: skip
    write_file(target / CARD_NAME, f"---\n{front_matter}---\n\n{body}".encode())


def escape_markdown(text: str) -> str:
    """One line of text that Markdown and HTML show as it is, at most 200 characters of it.

    >>> escape_markdown("a|b <script>")
    'a\\\\|b \\\\<script\\\\>'
    """
    line = "".join(sign if sign.isprintable() else " " for sign in text[:_LONGEST_TEXT])
    return _MARKS.sub(r"\\\1", line)


def _metadata(
    base: CardSource,
    instruct: CardSource,
    method: str,
    licence: Mapping[str, str],
    pipeline_tag: str | None,
    *,
    adapter: bool = False,
) -> dict[str, Any]:
    metadata: dict[str, Any] = {}
    for key, pattern in _LICENCE_PATTERNS.items():
        if key in licence and pattern.fullmatch(licence[key]):
            metadata[key] = licence[key]
    hub_ids = [
        source.name
        for source in ((base,) if adapter else (instruct, base))
        if source.is_hub and HUB_ID.fullmatch(source.name)
    ]
    if hub_ids:
        metadata["base_model"] = list(dict.fromkeys(hub_ids))
        metadata["base_model_relation"] = "adapter" if adapter else "merge"
    metadata["library_name"] = "peft" if adapter else "transformers"
    if pipeline_tag is not None and _is_pipeline_tag(pipeline_tag):
        metadata["pipeline_tag"] = pipeline_tag
    family = "timber" if method.startswith("timber") else method
    # The tag, beside the relation, is what lists of merged models are searched by.
    metadata["tags"] = list(dict.fromkeys(("timberkit", family, "merge")))
    return metadata


def _is_pipeline_tag(text: str) -> bool:
    return len(text) <= _LONGEST_PIPELINE_TAG and _PIPELINE_TAG.fullmatch(text) is not None


def _body(
    base: CardSource,
    instruct: CardSource,
    method: str,
    explanation: str,
    reference: str,
    parameters: Mapping[str, object],
    families: Sequence[str],
    tool_version: str,
    command: Sequence[str],
    caution: str,
    origin: str,
) -> str:
    settings = ", ".join(f"{name} = {value}" for name, value in parameters.items()) or "none"
    rows = {
        "Instruct": _origin(instruct),
        "Instruct revision": escape_markdown(instruct.revision or "not pinned"),
        "Base": _origin(base),
        "Base revision": escape_markdown(base.revision or "not pinned"),
        "Method": escape_markdown(method),
        "What it does": escape_markdown(explanation),
        "Source": escape_markdown(reference),
        "Parameters": escape_markdown(settings),
        "Refined tensors": escape_markdown(", ".join(families)),
        "Made with": escape_markdown(f"timberkit {tool_version}"),
    }
    table = "\n".join(f"| {name} | {value} |" for name, value in rows.items())
    shell = "".join(
        sign if sign.isprintable() or sign == "\n" else "\N{REPLACEMENT CHARACTER}"
        for sign in shlex.join(command)
    )
    fence = "`" * max(3, 1 + max(map(len, re.findall(r"`+", shell)), default=0))
    warning = f"\n{escape_markdown(caution)}\n" if caution else ""
    return f"""\
# {_shown(instruct)}, refined with {escape_markdown(method)}

{origin}

Evaluation results on the cards of the sources do not hold for this model: measure it yourself.
{warning}
## How it was made

| | |
|---|---|
{table}

`timberkit.json` lists every tensor with what was done to it, and a checksum of every file.

## Reproduce

{fence}bash
{shell}
{fence}

## Citation

Training-free refinement of Instruct with Base was proposed as Timber,
[arXiv {PAPER}](https://arxiv.org/abs/{PAPER}). The licences of both sources apply; read them before
you pass this model on.
"""


def _shown(source: CardSource) -> str:
    # The path of a local folder tells strangers about the machine; its name is enough.
    name = source.name if source.is_hub else PurePath(source.name).name
    return escape_markdown(name) + ("" if source.is_hub else " (local folder)")


def _origin(source: CardSource) -> str:
    was = source.converted_from
    return _shown(source) + ("" if was is None else f", converted from {escape_markdown(was)}")
