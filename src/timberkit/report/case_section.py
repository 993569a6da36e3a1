"""The seam between a page and its case browser: what such a section hands the page that shows it.

    section = CaseSection(title="Cases", html=Markup(...), script="function startCases() {…}", …)
    write_study_page(findings, path, analysis=None, published=published(), case_section=section)

The page puts ``html`` into ``<section id="cases">`` below a heading with ``title``; ``style`` after
its own rules; ``script`` into its one script, before the last part that starts everything; ``data``
into ``<script type="application/json" id="case-data">``. The script sees the helpers of
page/theme.js (``byId``, ``escaped``, ``draw``, ``colour`` …); where it declares ``startCases`` that
is called once, after all figures are drawn. It is trusted, as is ``html``: whoever makes a section
has escaped what strangers wrote, ``data`` by ``text.script_json``. All parts of the script share
one scope: names in it begin with ``case``, so that none stands there twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # of the extra report, needed only by whoever makes one
    import markupsafe


@dataclass(frozen=True, slots=True)
class CaseSection:
    """A section of a page that another module makes.

    Attributes:
        html: below the heading; trusted, as markup.
        script: JavaScript source, a part of the page's only script; may declare ``startCases``.
        data: JSON text that may stand in a script tag (``text.script_json``).
        style: CSS rules, after the page's own.
        title: of the section, for the heading and the list of sections; escaped by the page.
        style_sources: further sources for ``style-src`` of the page's Content-Security-Policy,
            quotes included: where the section's files beside the page lie. There are none for
            scripts: a page runs its own alone.
    """

    html: markupsafe.Markup
    script: str
    data: str
    style: str
    title: str
    style_sources: tuple[str, ...] = ()
