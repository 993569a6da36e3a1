"""What strangers wrote, made safe to show."""

from __future__ import annotations

import json
import math

import pytest
from made_analysis import HOSTILE

from timberkit.report.text import NO_BREAK, percent, script_json, significant, visible


@pytest.mark.parametrize("letter", ["\x00", "\n", "\x1b", "\u202e", "\u2066", "\u2028", "\ud800"])
def test_what_shows_nothing_or_moves_others_is_spelled_out(letter: str) -> None:
    assert visible(f"a{letter}b") == f"a\\u{ord(letter):04x}b"


def test_ordinary_text_of_any_script_stays() -> None:
    text = "model.layers.3.self_attn.q_proj.weight Größe 重み"
    assert visible(text) == text


def test_long_names_lose_their_middle_and_keep_both_ends() -> None:
    short = visible("begin" + "x" * 10_000 + "end", longest=21)
    assert len(short) == 21
    assert short.startswith("begin")
    assert short.endswith("end")


@pytest.mark.parametrize("name", HOSTILE)
def test_json_in_a_script_tag_holds_no_markup_and_reads_back(name: str) -> None:
    text = script_json({name: [name]})
    assert not set("<>&\u2028\u2029") & set(text)
    assert text.isascii()
    assert json.loads(text) == {name: [name]}


def test_numbers_that_json_does_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        script_json(math.nan)


def test_significant_digits_are_kept_at_any_scale() -> None:
    assert significant(1.23456789e-12) == 1.2346e-12
    assert significant(123456.0, 3) == 123000
    assert significant(math.inf) is None
    assert str(significant(-0.0)) == "0"


def test_percent_keeps_the_digits_that_tell() -> None:
    assert [percent(x).replace(NO_BREAK, " ") for x in (0.0, -0.015, 0.99999)] == [
        "0 %",
        "-1.50 %",
        "100.00 %",
    ]
