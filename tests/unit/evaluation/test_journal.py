"""The journal of generations: whatever is cut or foreign is dropped or refused, nothing is lost."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from timberkit.errors import InputError, ResourceError, StageConflictError
from timberkit.evaluation.journal import Generation, Segment

FIRST = Generation(
    "60", 1, 7, text="x = 1\n\u2028</think>", stop="stop", input_tokens=3, seconds=0.5
)
SECOND = Generation("60", 2, 8, text="y", stop="length", output_tokens=1)
FAILED = Generation("61", 1, 9, stop="error", error="500")


def opened(path: Path, digest: str = "d") -> Segment:
    return Segment(path, number=1, digest=digest)


def test_generations_are_there_again_when_it_is_opened_anew(tmp_path: Path) -> None:
    path = tmp_path / "new" / "j.jsonl"
    segment = opened(path)
    segment.append([FIRST])
    segment.append([SECOND, FAILED])
    segment.close()
    again = opened(path)
    assert list(again.generations()) == [FIRST, SECOND, FAILED]
    assert (len(again), again.characters) == (3, len(FIRST.text) + 1)
    assert again.answers(("60", 1))
    assert not again.answers(("61", 1))
    again.close()


@pytest.mark.parametrize("cut", [1, 30, 150])
def test_torn_last_line_is_dropped_and_the_rest_kept(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "j.jsonl"
    segment = opened(path)
    segment.append([FIRST])
    segment.append([SECOND])
    segment.close()
    path.write_bytes(path.read_bytes()[:-cut])
    again = opened(path)
    assert list(again.generations()) == [FIRST]
    again.append([SECOND])
    assert list(again.generations()) == [FIRST, SECOND]
    again.close()


def test_later_answer_takes_the_place_of_a_failed_request(tmp_path: Path) -> None:
    answered = replace(FAILED, error=None, text="ok", stop="stop")
    segment = opened(tmp_path / "j.jsonl")
    segment.append([FAILED, FIRST])
    segment.append([answered])
    assert list(segment.generations()) == [FIRST, answered]
    assert segment.answers(answered.key)
    assert len(segment) == 2
    segment.remove()
    assert not (tmp_path / "j.jsonl").exists()


def test_journal_of_other_settings_is_refused_and_left_as_it_was(tmp_path: Path) -> None:
    segment = opened(tmp_path / "j.jsonl")
    segment.append([FIRST])
    segment.close()
    before = (tmp_path / "j.jsonl").read_bytes()
    with pytest.raises(StageConflictError, match="other settings"):
        opened(tmp_path / "j.jsonl", digest="other")
    assert (tmp_path / "j.jsonl").read_bytes() == before


@pytest.mark.parametrize("change", [{"rollout": 0}, {"stop": "odd"}, {"text": 3}, {"more": 1}])
def test_entry_that_is_no_generation_is_refused(tmp_path: Path, change: dict[str, object]) -> None:
    from dataclasses import asdict

    from timberkit.checkpoint.journal import Journal

    journal = Journal(tmp_path / "j.jsonl")
    journal.append([{"unit": "d"}, {**asdict(FIRST), **change}])
    journal.close()
    with pytest.raises(InputError, match="no generation"):
        opened(tmp_path / "j.jsonl")


def test_lone_surrogate_becomes_a_character_that_files_can_hold(tmp_path: Path) -> None:
    segment = opened(tmp_path / "j.jsonl")
    segment.append([Generation("60", 1, 7, text="a\ud800b", stop="stop")])
    assert [each.text for each in segment.generations()] == ["a\ufffdb"]
    segment.close()


def test_folder_that_cannot_be_made_is_an_error_with_its_name(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot be opened"):
        opened(tmp_path / "file" / "j.jsonl")
