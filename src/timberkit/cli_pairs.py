"""``timberkit pairs``: the ready-made pairs."""

from __future__ import annotations

from dataclasses import asdict

from timberkit.cli_options import Json, print_json, stoppable


@stoppable
def pairs(as_json: Json = False) -> None:
    """List the ready-made pairs, the paper's seven and the embedded one; fetches nothing.

    \b
    timberkit pairs
    timberkit pairs --json
    timberkit plan --pair qwen3-0.6b
    """
    from timberkit import terminal
    from timberkit.pairs import PAIRS, pair_facts
    from timberkit.terminal_pairs import COLUMNS, show_pairs

    found = [pair_facts(pair) for pair in PAIRS]
    if as_json:
        print_json([asdict(facts) for facts in found])
    else:
        show_pairs(terminal.results(columns=COLUMNS), found)
