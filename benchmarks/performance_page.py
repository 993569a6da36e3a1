"""``docs/performance.md``: one section a model, written by the benchmark and by nothing else.

Called by ``refine.py --write-docs``. Sections of other models stay as their last run left them,
between markers; the text around them is written anew. Not here: any number.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from make_pair import MODELS
from tables import TextTable, tables

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
HEADER = """# Performance

Written by `benchmarks/refine.py --write-docs`; no number here was typed. Each section says what
command wrote it, on what machine and when; running it again rewrites that section.

- **The pair** is synthetic: names, shapes, dtype and shards of the model, random values
  (`benchmarks/make_pair.py`).
- **The published algorithm** is our own statement of it (`benchmarks/authors_algorithm.py`): a full
  float64 SVD of each delta on all cores, everything kept until the end, a cache of all factors. It
  treats the same weights as timberkit does.
- **Processes** are measured with all their children: wall and processor time, the peak of their
  memory summed (PSS, sampled), bytes moved by system calls (a memory map's reads are not among
  them). Sources are in the page cache. The bare loop's wall time is that of the SVDs alone. Where
  it differs from that of the SVDs inside the whole process, or the load before the start was not
  near 0, the machine was not idle.
- **Stages** are timed in one process with one thread, each without what is timed inside it. The
  roofline is the larger of its operations over the rate of a matrix product and its bytes over the
  rate of a copy (a hash, the disk). `sytrd` does half of its work by matrix-vector products, and
  the tridiagonal solvers are scalar recurrences: neither can reach it.
- On a GPU nothing has been timed.
"""


def write_section(result: dict[str, Any], command: str, page: Path = PAGE) -> None:
    """Replace the section of a result's model, or add it, in the order of ``MODELS``."""
    sections = read_sections(page.read_text()) if page.exists() else {}
    sections[result["model"]] = section(result, command)
    order = sorted(sections, key=lambda name: list(MODELS).index(name))
    marked = (f"<!-- begin {name} -->\n{sections[name]}\n<!-- end {name} -->\n" for name in order)
    page.parent.mkdir(exist_ok=True)
    page.write_text(HEADER + "".join(f"\n{part}" for part in marked))


def read_sections(text: str) -> dict[str, str]:
    """What stands between the markers, by model; sections of models unknown by now are dropped."""
    found = re.findall(r"<!-- begin (\S+) -->\n(.*?)\n<!-- end \1 -->", text, re.DOTALL)
    return {name: body for name, body in found if name in MODELS}


def section(result: dict[str, Any], command: str) -> str:
    """One model: what was run, on what, and its tables."""
    machine = result["machine"]
    libraries = ", ".join(f"{name} {held}" for name, held in machine["libraries"].items())
    experts = f", {result['experts']} experts each" if result["experts"] else ""
    lines = [
        f"## {result['model']}: {result['layers']} of {result['of_layers']} layers{experts}",
        "",
        f"{result['matrices']} weights refined ({result['refined_bytes'] / 1e9:.2f} GB of"
        f" {result['pair_bytes'] / 2e9:.2f} GB a model), embeddings: {result['embeddings']}."
        f" {result['date']}, `{command}`.",
        "",
        f"{machine['processor']}, {machine['cores']} cores,"
        f" {machine['memory_bytes'] / 1e9:.0f} GB of memory, {machine['system']}; Python"
        f" {machine['python']}, {libraries}; BLAS: {'; '.join(machine['blas'])}."
        f" Load before the start: {result['load_before']:.1f}.",
    ]
    for table in tables(result):
        lines += ["", f"### {table.title}", "", *_markdown(table)]
    return "\n".join(lines)


def _markdown(table: TextTable) -> list[str]:
    rule = ["---", *["---:"] * (len(table.columns) - 1)]
    rows = [table.columns, tuple(rule), *table.rows]
    return ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
