"""What all offline pages share: templates, one script, a policy with hashes, one step to the disk.

    parts = page_parts(["theme", "main"], styles=["page"])
    write_html(path, render("page.html", parts, {"data": "{}"}, heading="…"))

A page holds plotly.js once, its own script and style, and its numbers as JSON. Its
Content-Security-Policy allows exactly those two scripts, by their hashes, and no connection at all:
should a name from a stranger ever slip through the escaping, it still could not run or load
anything.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timberkit.errors import MissingExtraError
from timberkit.report.text import visible
from timberkit.report.whole_file import write_whole

if TYPE_CHECKING:
    import jinja2
    import markupsafe

LARGEST_PAGE_BYTES = 8_000_000
MOST_FACTS = 400


@dataclass(frozen=True, slots=True)
class PageParts:
    """What stands on a page beside its words and numbers; ``policy`` allows its scripts.

    ``plotly`` is empty on a page without figures.
    """

    plotly: str
    plotly_version: str
    script: str
    style: str
    policy: str

    @property
    def size_bytes(self) -> int:
        """Of all of it together."""
        return sum(len(part.encode()) for part in (self.plotly, self.script, self.style))


def page_parts(
    scripts: Sequence[str],
    styles: Sequence[str],
    *,
    more_script: str = "",
    more_style: str = "",
    style_sources: Sequence[str] = (),
    figures: bool = True,
) -> PageParts:
    """The parts of a page made of files in ``page/``.

    Args:
        scripts, styles: names of files, without ``.js`` and ``.css``; the last script starts all.
        more_script: source that stands before the last script.
        more_style: rules after all others.
        style_sources: what ``style-src`` allows beside the rules of the page.
        figures: whether there are any; a page without them goes without plotly.js.

    Raises:
        MissingExtraError: plotly is not installed.
    """
    try:
        from plotly.offline import get_plotlyjs, get_plotlyjs_version
    except ImportError as error:
        raise MissingExtraError(error.name or "plotly", extra="report") from None
    *first, last = (packaged(f"{name}.js") for name in scripts)
    body = "\n".join([*first, *([more_script] if more_script else []), last])
    plotly = _inline(get_plotlyjs()) if figures else ""
    script = _inline(f'(() => {{\n"use strict";\n{body}}})();')
    style = "".join([*(packaged(f"{name}.css") for name in styles), more_style])
    return PageParts(
        plotly, get_plotlyjs_version(), script, style.replace("</", "<\\/"),
        _policy([plotly, script] if figures else [script], style_sources),
    )  # fmt: skip


def render(template: str, parts: PageParts, data: Mapping[str, str], /, **words: Any) -> str:
    """A template of ``page/`` as HTML.

    Args:
        template: its file name.
        parts: of the page.
        data: id to JSON that may stand in a script tag; the page shows it in this order.
        words: what the template shows; escaped there, unless it is ``markupsafe.Markup``.

    Raises:
        MissingExtraError: jinja2 is not installed.
    """
    environment = _environment()
    from markupsafe import Markup

    trusted = {"plotly": parts.plotly, "script": parts.script, "style": parts.style}
    return environment.get_template(template).render(
        **words,
        **{name: Markup(text) for name, text in trusted.items()},
        data={name: Markup(text) for name, text in data.items()},
        policy=parts.policy,
        plotly_version=parts.plotly_version,
    )


def render_part(template: str, /, **words: Any) -> markupsafe.Markup:
    """A template of ``page/`` that is a part of a page; as ``render``."""
    environment = _environment()
    from markupsafe import Markup

    return Markup(environment.get_template(template).render(**words))


def write_html(path: Path, html: str) -> Path:
    """Write beside the goal and rename, so that a reader sees the old page or the new one."""
    return write_whole(path, html)


def fact(value: object) -> str:
    """A fact as text: strings as they are, all else as JSON, so that numbers keep their digits."""
    if isinstance(value, list | tuple) and all(isinstance(word, str) for word in value):
        return visible(", ".join(value) or "–", longest=1000)
    if value is None:
        return "–"
    text = value if isinstance(value, str) else json.dumps(value, default=str, ensure_ascii=False)
    return visible(text, longest=1000)


def flat_facts(value: object, prefix: str = "") -> Iterator[tuple[str, str]]:
    """(key.key, value) of nested mappings, in order."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from flat_facts(inner, f"{prefix}.{visible(key)}" if prefix else visible(key))
    else:
        yield prefix, fact(value)


def _environment() -> jinja2.Environment:
    try:
        import jinja2
    except ImportError as error:
        raise MissingExtraError(error.name or "jinja2", extra="report") from None
    return jinja2.Environment(
        autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        loader=jinja2.FunctionLoader(packaged),
    )  # fmt: skip


def packaged(name: str) -> str:
    """A file of ``page/``."""
    return (files("timberkit.report") / "page" / name).read_text(encoding="utf-8")


def _inline(script: str) -> str:
    """A script that may stand inside its tag, and that has the hash of what a browser sees."""
    text = script.replace("\r\n", "\n").replace("\r", "\n")
    return text.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _policy(scripts: Sequence[str], styles: Sequence[str]) -> str:
    hashes = (
        base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts
    )
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    # Plotly writes its own style rules, draws heat maps into data: images, and saves from blobs.
    rules = " ".join(["'unsafe-inline'", *styles])
    return (
        f"default-src 'none'; script-src {allowed}; style-src {rules};"
        " img-src data: blob:; base-uri 'none'; form-action 'none'"
    )
