"""Rewrite docs/commands.md from what `--help` says of every command.

    python scripts/update_commands.py

A test compares the page with it.
"""

from __future__ import annotations

from pathlib import Path

import typer

from timberkit.cli import app

PAGE = Path(__file__).resolve().parents[1] / "docs" / "commands.md"
HEAD = """# Every command

What `timberkit COMMAND --help` says; made by `scripts/update_commands.py`.
"""
WIDTH = 100


def page() -> str:
    """The page: one section for each command, in the order of `timberkit --help`."""
    group = typer.main.get_command(app)
    context = group.make_context("timberkit", [], resilient_parsing=True)
    sections = [HEAD]
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        inner = command.context_class(
            command, parent=context, info_name=name, terminal_width=WIDTH, max_content_width=WIDTH
        )
        text = "\n".join(line.rstrip() for line in command.get_help(inner).splitlines())
        sections.append(f"## {name}\n\n```text\n{text.strip()}\n```\n")
    return "\n".join(sections)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
