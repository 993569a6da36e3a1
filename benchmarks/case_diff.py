"""How long the case browser takes to compare two long answers, in the browser that shows them.

    python benchmarks/case_diff.py

Pairs of texts of about 100 KB: solutions that share phrases, one edited here and there, others
without anything in common, and texts made to be hard. The function is the page's own (``caseDiff``,
``page/case_diff.js``), run in Chromium through Playwright; the best of five. A table, then the
result as one line of JSON. Not here: drawing the marks.
"""

from __future__ import annotations

import json
import random
import shutil
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

from machine import describe
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests" / "support"))
from made_cases import thoughts

RUNS = 5
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu")
WORDS = [f"word{i}" for i in range(3_000)]
MEASURE = """([first, second]) => {
    let best = Infinity, found = null;
    for (let i = 0; i < RUNS; i += 1) {
        const start = performance.now();
        found = window.caseDiff(first, second);
        best = Math.min(best, performance.now() - start);
    }
    return [best, found.common, found.unit, found.ranges[0].length + found.ranges[1].length];
}""".replace("RUNS", str(RUNS))


def of_words(seed: int, count: int) -> list[str]:
    """Words, frequent and rare ones as in a language."""
    lot = random.Random(seed)
    return [WORDS[int(len(WORDS) * lot.random() ** 3)] for _ in range(count)]


def edited(words: list[str], share: float) -> list[str]:
    """So many of the words are others."""
    lot = random.Random(0)
    return [lot.choice(WORDS) if lot.random() < share else word for word in words]


def pairs() -> dict[str, tuple[str, str]]:
    """Texts by what they are."""
    base = of_words(1, 14_000)
    unique = [f"unique{i}" for i in range(10_000)]
    letters = [random.Random(seed).choices("ab", k=50_000) for seed in (1, 2)]
    lines = [random.Random(seed).choices(["a\n", "b\n"], k=60_000) for seed in (1, 2)]
    return {
        "two solutions": (thoughts("a", 1700), thoughts("b", 1700)),
        "2 % of the words edited": (" ".join(base), " ".join(edited(base, 0.02))),
        "30 % of the words edited": (" ".join(base), " ".join(edited(base, 0.3))),
        "other words": (" ".join(base), " ".join(of_words(2, 14_000))),
        "the same words in another order": (
            " ".join(unique),
            " ".join(random.Random(1).sample(unique, len(unique))),
        ),
        "two letters": (" ".join(letters[0]), " ".join(letters[1])),
        "short lines": ("".join(lines[0]), "".join(lines[1])),
    }


def main() -> None:
    """Measure all pairs and print them."""
    from playwright import sync_api

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    source = (files("timberkit.report") / "page" / "case_diff.js").read_text(encoding="utf-8")
    rows: list[dict[str, Any]] = []
    with sync_api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=chromium, args=list(FLAGS))
        page = browser.new_page()
        page.evaluate(f"() => {{ {source}; window.caseDiff = caseDiff; }}")
        for name, texts in pairs().items():
            best, common, unit, marks = page.evaluate(MEASURE, list(texts))
            rows.append(
                {"texts": name, "characters": max(map(len, texts)), "milliseconds": round(best, 1)}
                | {"common": round(common, 3), "unit": unit, "marks": marks}
            )
        version = browser.version
        browser.close()
    table = Table("texts", "characters", "ms", "in both", "compared by", "marks")
    for row in rows:
        table.add_row(
            *(f"{value:,}" if isinstance(value, int) else str(value) for value in row.values())
        )
    Console().print(table)
    print(
        json.dumps(
            {"benchmark": "case_diff", "chromium": version, "machine": describe(), "rows": rows}
        )
    )


if __name__ == "__main__":
    main()
