"""What ``timberkit push`` shows: where it goes, every file with its size, the card, notes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console

from timberkit.terminal import size

if TYPE_CHECKING:
    from timberkit.engine.push import PushPlan, PushResult


def printable(text: str) -> str:
    """Text without signs that a terminal would act on.

    >>> printable("a\\x1b[31mb")
    'a\ufffd[31mb'
    """
    return "".join(sign if sign.isprintable() else "\N{REPLACEMENT CHARACTER}" for sign in text)


def show_plan(console: Console, plan: PushPlan) -> None:
    """What would be uploaded, and where."""
    visibility = "private" if plan.private else "public"
    console.print(f"{plan.repo}, branch {plan.branch}, {visibility}")
    width = max(len(file.name) for file in plan.files)
    for file in plan.files:
        console.print(f"  {printable(file.name):<{width}}  {size(file.size_bytes):>9}")
    console.print(f"{len(plan.files)} files, {size(plan.size_bytes)}; all as their manifest says.")
    console.print("Card:")
    for name, value in plan.card.items():
        shown = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
        console.print(f"  {printable(str(name))}: {printable(shown)}")
    for note in plan.notes:
        console.print(f"Note: {printable(note)}.")


def show_result(console: Console, result: PushResult) -> None:
    """What was done."""
    if result.sent or result.removed:
        removed = f", {len(result.removed)} removed" if result.removed else ""
        console.print(f"{len(result.sent)} files uploaded{removed}: {printable(result.url)}")
    else:
        console.print(f"Nothing to upload, all files are there: {printable(result.url)}")
