#!/usr/bin/env python3
"""The licences of what timberkit depends on at run time, from the installed packages' metadata.

    scripts/licences.py --write    # docs/licences.md
    scripts/licences.py            # exit 1, naming them, for strong copyleft and unknown licences

Followed from ``pyproject.toml`` (the dependencies and the extras that a user installs) through the
requirements of every installed package; development tools are no part of it.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path
from typing import NamedTuple

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "licences.md"
DEVELOPMENT = {"dev", "docs", "all"}
"""Extras that no user needs; ``all`` names the others."""
STRONG_COPYLEFT = re.compile(
    r"(?<!L)(?<!Lesser )\b(?:A?GPL|SSPL|OSL|EUPL|GNU (?:Affero )?General Public|CC-BY-(?:NC|SA))",
    re.I,
)
KNOWN = re.compile(
    r"MIT|Apache|BSD|ISC|PSF|Python Software Foundation|MPL|Mozilla Public|LGPL|Lesser General|Zlib"
    r"|Unlicense|CC0|HPND|Boost|BSL-1|CNRI|Public Domain|Historical Permission",
    re.I,
)
OWN_TERMS = {"nvidia": "NVIDIA's own terms, for its CUDA libraries", "cuda": "NVIDIA's own terms"}
"""What PyPI's build of torch brings; a CPU build does without."""


class Licence(NamedTuple):
    """One package: what it says of its licence, and why that is no problem or is one."""

    name: str
    text: str
    direct: bool

    @property
    def problem(self) -> str:
        """Empty where the licence lets anyone use the package from a program under Apache-2.0."""
        if self.name.split("-")[0] in OWN_TERMS:
            return ""
        if STRONG_COPYLEFT.search(self.text):
            return "strong copyleft"
        return "" if KNOWN.search(self.text) else "unknown licence"


def direct_requirements() -> list[Requirement]:
    """What pyproject.toml asks for at run time, with all extras that a user may install."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    kept = [text for name in sorted(extras) if name not in DEVELOPMENT for text in extras[name]]
    return [Requirement(text) for text in (*project["dependencies"], *kept)]


def licences() -> list[Licence]:
    """Of every package that is reached, by name; what is not installed is left out."""
    direct = {_key(each.name) for each in direct_requirements()}
    seen: dict[tuple[str, str], None] = {}
    found: dict[str, Distribution] = {}
    waiting = [(each.name, extra) for each in direct_requirements() for extra in ("", *each.extras)]
    while waiting:
        name, extra = waiting.pop()
        key = _key(name)
        if (key, extra) in seen:
            continue
        seen[key, extra] = None
        try:
            found[key] = distribution(name)
        except PackageNotFoundError:
            continue
        for text in found[key].requires or ():
            inner = Requirement(text)
            if inner.marker is None or inner.marker.evaluate({"extra": extra}):
                waiting += [(inner.name, each) for each in ("", *inner.extras)]
    return [
        Licence(key, licence_of(found[key]), key in direct)
        for key in sorted(found)
        if key != "timberkit"
    ]


def licence_of(package: Distribution) -> str:
    """What a package says: its SPDX expression, classifiers, licence field or licence file."""
    return next(filter(None, _said(package)), "unknown")


def _said(package: Distribution) -> Iterator[str]:
    metadata = package.metadata
    yield metadata.get("License-Expression") or ""
    classifiers = metadata.get_all("Classifier") or []
    named = [each.split(" :: ")[-1] for each in classifiers if each.startswith("License ::")]
    yield ", ".join(named)
    field = (metadata.get("License") or "").strip().split("\n")[0].strip()
    yield "" if field.upper() == "UNKNOWN" else field[:60]
    for file in package.files or ():
        if re.match(r"(licen[cs]e|copying)", file.name, re.I) and ".dist-info" in str(file):
            lines = Path(str(package.locate_file(file))).read_text(errors="replace").split("\n")
            yield next((line.strip() for line in lines if KNOWN.search(line)), "")[:60]


def _key(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def page(found: list[Licence]) -> str:
    """The page of the docs."""
    kinds = Counter(each.text for each in found)
    rows = [
        f"| {'**' + each.name + '**' if each.direct else each.name} | {each.text} |"
        for each in found
    ]
    return f"""\
# Licences

timberkit is under Apache-2.0. These are the packages that it uses at run time with all extras
(`pip install 'timberkit[all]'`), and what each says of its own licence in its metadata; those in
**bold** it names itself. `scripts/licences.py --write` writes this page from what is installed; a
test refuses strong copyleft (GPL, AGPL, SSPL) and licences that are unknown. {len(found)} packages,
{len(kinds)} wordings.

PyPI's build of torch also brings CUDA libraries under NVIDIA's own terms; a CPU build does not.
Benchmarks and models have licences of their own, which are not those of any package; none is part
of timberkit but the embedded pair, which is under Apache-2.0 too.

| package | licence |
|---|---|
{chr(10).join(rows)}
"""


def main() -> int:
    """Check, and write the page where that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="write docs/licences.md")
    given = parser.parse_args()
    found = licences()
    if given.write:
        PAGE.write_text(page(found), encoding="utf-8")
    problems = [f"{each.name}: {each.text}: {each.problem}" for each in found if each.problem]
    print("\n".join(problems) or f"{len(found)} packages, no strong copyleft, no unknown licence")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
