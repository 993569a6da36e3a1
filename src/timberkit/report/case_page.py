"""The case browser: a section of a larger page, or a page of its own.

    section = case_section(collection, beside=Path("report.html"), budget_bytes=1_500_000)
    write_cases_page(collection, "cases.html")

Which problems there are stands in ``cases``, how texts are packed in ``case_packs``, what a reader
does with them in ``page/case_*.js``.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import Any

from timberkit.errors import UsageError
from timberkit.report.case_packs import (
    LONGEST_LABEL,
    Packs,
    address_of,
    folder_beside,
    listing_of,
    pack_texts,
    unlike,
    write_beside,
)
from timberkit.report.case_section import CaseSection
from timberkit.report.cases import CaseCollection
from timberkit.report.page_file import (
    LARGEST_PAGE_BYTES,
    PageParts,
    packaged,
    page_parts,
    render,
    render_part,
    write_html,
)
from timberkit.report.text import script_json, visible

TITLE = "Problem by problem"
MARKUP_BYTES = 100_000
"""Of a page's HTML but for what ``PageParts`` and the data hold."""
SCRIPTS = ("case_texts", "case_diff", "case_list", "case_detail", "cases")
"""Parts of the section's script, in order."""
BESIDE_SOURCE = "'self'"


def case_section(collection: CaseCollection, *, beside: Path, budget_bytes: int) -> CaseSection:
    """The case browser for a page, and its files beside the page where they are needed.

    Args:
        collection: what to show; at least one case.
        beside: the page's own path. Texts that do not fit go into ``STEM-cases`` in its folder,
            which is replaced as a whole; where they fit, an older such folder goes.
        budget_bytes: what ``data`` may have; the list of the cases, about 1 KB each, must fit.

    Returns:
        The section. Equal collections and stems give equal ones.

    Raises:
        UsageError: no cases, or the list alone is larger than the budget.
        MissingExtraError: jinja2 is not installed.
        OutputExistsError: the folder beside the page holds something else.
        OSError: it cannot be written.

    Cost: 20 ms a megabyte of text.
    """
    if not collection.cases:
        raise UsageError("cases: found no problem to show, expected at least one")
    packs = pack_texts(collection)
    data, inside = _fitting_data(collection, packs, beside, budget_bytes)
    section = CaseSection(
        title=TITLE,
        html=render_part("cases.html", **_words(collection)),
        script="\n".join(packaged(f"{name}.js") for name in SCRIPTS),
        data=data,
        style=packaged("cases.css"),
        style_sources=() if inside else (BESIDE_SOURCE,),
    )
    write_beside(beside, () if inside else packs.texts)
    return section


def write_cases_page(collection: CaseCollection, path: str | os.PathLike[str]) -> Path:
    """Write a page of cases alone, under 8 MB, with its folder of texts beside it where needed.

    ``path``: the file to write; an older one is replaced, in one step. Its folder must exist.
    Returns ``path``. Raises as ``case_section``. A browser needs no network and no server for it.
    """
    path = Path(path)
    room = LARGEST_PAGE_BYTES - _parts().size_bytes - MARKUP_BYTES
    section = case_section(collection, beside=path, budget_bytes=room)
    models, tasks = len(collection.models), len({case.task for case in collection.cases})
    html = render(
        "cases_page.html",
        _parts(section.style_sources),
        {"data": "{}", "case-data": section.data},
        heading=section.title,
        kicker="case studies",
        subtitle=f"{_counted(len(collection.cases), 'problem')} of {_counted(tasks, 'benchmark')},"
        f" answered by {_counted(models, 'model')}.",
        sections=[("cases", section.title)],
        section=section,
    )
    return write_html(path, html)


def _parts(style_sources: tuple[str, ...] = ()) -> PageParts:
    return page_parts(
        ["theme", *SCRIPTS, "main"],
        ["page", "cases"],
        style_sources=style_sources,
        figures=False,
    )


def _fitting_data(
    collection: CaseCollection, packs: Packs, page: Path, budget_bytes: int
) -> tuple[str, bool]:
    """The section's data, and whether the texts are in it."""
    listing = listing_of(collection, packs)
    outside: dict[str, Any] = {"folder": address_of(folder_beside(page)), "digests": packs.digests}
    alone = script_json({**listing, "packs": None, "files": outside})
    if len(alone) > budget_bytes:
        raise UsageError(
            f"cases: the list of {len(collection.cases):,} problems has {len(alone):,} bytes, more"
            f" than the {budget_bytes:,} that the page has room for; show fewer problems or models"
        )
    if len(alone) + packs.size_bytes <= budget_bytes:
        return script_json({**listing, "packs": packs.texts, "files": None}), True
    return alone, False


def _words(collection: CaseCollection) -> dict[str, Any]:
    """What the markup says of the collection."""
    shown = Counter(case.task for case in collection.cases)
    labels = unlike(list(collection.tasks), LONGEST_LABEL)
    tasks = [
        {"label": label, "shown": shown[task], "all": collection.tasks[task]}
        for task, label in zip(collection.tasks, labels, strict=True)
    ]
    texts = any(
        one.response.left_out or one.response.text
        for case in collection.cases
        for model in case.models.values()
        for one in model.shown
    )
    return {
        "tasks": tasks,
        "chosen": len(collection.cases) < sum(collection.tasks.values()),
        "texts": texts,
        "reference": visible(collection.labels[collection.reference], longest=LONGEST_LABEL),
    }


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}{'' if count == 1 else 's'}"
