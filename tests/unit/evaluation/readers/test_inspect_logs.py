"""Logs that inspect_ai itself has written are read as it meant them."""

from __future__ import annotations

import json
import random
import shutil
import zipfile
from pathlib import Path

import pytest

from timberkit.errors import InputError, UsageError
from timberkit.evaluation.readers import read_any
from timberkit.rollouts import Rollout


def by_key(rollouts: list[Rollout]) -> dict[tuple[str, int], Rollout]:
    return {(rollout.problem, rollout.rollout): rollout for rollout in rollouts}


@pytest.mark.parametrize("kind", ["eval", "json"])
def test_a_log_gives_grades_ends_tokens_and_names(inspect_logs: dict[str, Path], kind: str) -> None:
    source = read_any(inspect_logs[kind], ["match"])
    found = by_key(list(source.rollouts))
    assert set(found) == {("a", 1), ("a", 2), ("7", 1), ("7", 2)}
    assert {(rollout.model, rollout.task) for rollout in found.values()} == {
        ("mockllm/model", "sums")
    }
    with_texts = json.loads(inspect_logs["json"].read_text())
    for sample in with_texts["samples"]:
        rollout = found[str(sample["id"]), sample["epoch"]]
        assert rollout.correct == (sample["scores"]["match"]["value"] == "C")
        assert rollout.answer == sample["scores"]["match"]["answer"]
        cut = sample["output"]["choices"][0]["stop_reason"] == "max_tokens"
        assert rollout.stop == ("length" if cut else "stop")
        assert rollout.output_tokens == len(sample["output"]["completion"])
    assert sum(rollout.stop == "length" for rollout in found.values()) == 1
    assert source.notices == []


def test_the_scorer_decides_what_is_right(inspect_logs: dict[str, Path]) -> None:
    strict = sum(r.correct for r in read_any(inspect_logs["eval"], ["match"]).rollouts)
    loose = sum(r.correct for r in read_any(inspect_logs["eval"], ["includes"]).rollouts)
    assert strict < loose


def test_several_scorers_and_none_chosen_is_an_error_that_lists_them(
    inspect_logs: dict[str, Path],
) -> None:
    with pytest.raises(UsageError, match=r"several scorers: 'includes', 'match'; .*--scorer"):
        list(read_any(inspect_logs["eval"]).rollouts)
    with pytest.raises(UsageError, match="but not exact"):
        list(read_any(inspect_logs["eval"], ["exact"]).rollouts)


def test_a_folder_of_logs_is_read_file_by_file(
    inspect_logs: dict[str, Path], tmp_path: Path
) -> None:
    (tmp_path / "deep").mkdir()
    shutil.copy(inspect_logs["eval"], tmp_path / "deep" / "log.eval")
    assert len(list(read_any(tmp_path, ["match"]).rollouts)) == 4


def changed(path: Path, target: Path, change: object) -> Path:
    """A copy of a JSON log with every sample changed by a function."""
    content = json.loads(path.read_text())
    for sample in content["samples"]:
        change(sample)  # type: ignore[operator]
    target.write_text(json.dumps(content))
    return target


@pytest.mark.parametrize(
    ("value", "right"),
    [("C", True), ("I", False), (1, True), (0.0, False), (True, True), ("yes", True), ("N", False)],
)
def test_values_that_mean_right_and_wrong(
    inspect_logs: dict[str, Path], tmp_path: Path, value: object, right: bool
) -> None:
    def change(sample: dict[str, object]) -> None:
        sample["scores"] = {"own": {"value": value}}

    path = changed(inspect_logs["json"], tmp_path / "log.json", change)
    assert {rollout.correct for rollout in read_any(path).rollouts} == {right}


def test_partly_right_is_wrong_and_said(inspect_logs: dict[str, Path], tmp_path: Path) -> None:
    def change(sample: dict[str, object]) -> None:
        sample["scores"] = {"own": {"value": "P"}}

    source = read_any(changed(inspect_logs["json"], tmp_path / "log.json", change))
    assert not any(rollout.correct for rollout in source.rollouts)
    assert source.notices == ["log.json: 4 samples are graded as partly right: they are wrong"]


def test_a_score_of_several_values_is_chosen_by_its_key(
    inspect_logs: dict[str, Path], tmp_path: Path
) -> None:
    def change(sample: dict[str, object]) -> None:
        sample["scores"] = {"judge": {"value": {"strict": 0, "loose": 1}, "answer": "4"}}

    path = changed(inspect_logs["json"], tmp_path / "log.json", change)
    (first, *_) = read_any(path, ["judge/loose"]).rollouts
    assert (first.correct, first.answer) == (True, "4")
    assert not any(rollout.correct for rollout in read_any(path, ["strict"]).rollouts)


def test_a_number_that_is_no_grade_is_an_error(
    inspect_logs: dict[str, Path], tmp_path: Path
) -> None:
    def change(sample: dict[str, object]) -> None:
        sample["scores"] = {"perplexity": {"value": 17.5}}

    path = changed(inspect_logs["json"], tmp_path / "log.json", change)
    with pytest.raises(InputError, match=r"scorer 'perplexity' gave '17.5', expected C or I"):
        list(read_any(path).rollouts)


def test_samples_without_a_grade_are_left_out_and_errors_are_wrong(
    inspect_logs: dict[str, Path], tmp_path: Path
) -> None:
    def change(sample: dict[str, object]) -> None:
        if sample["epoch"] == 1:
            sample["scores"] = None
            if sample["id"] == "a":
                sample["error"] = {"message": "503", "traceback": "", "traceback_ansi": ""}

    source = read_any(changed(inspect_logs["json"], tmp_path / "log.json", change), ["match"])
    found = by_key(list(source.rollouts))
    assert set(found) == {("a", 1), ("a", 2), ("7", 2)}
    failed = found["a", 1]
    assert (failed.correct, failed.error, failed.stop) == (False, "503", "error")
    assert source.notices == ["log.json: 1 samples have no grade and are left out"]


def test_broken_logs_are_refused_by_name(inspect_logs: dict[str, Path], tmp_path: Path) -> None:
    cut = tmp_path / "cut.eval"
    cut.write_bytes(inspect_logs["eval"].read_bytes()[:-100])
    with pytest.raises(InputError, match=r"cut\.eval: cannot be read as a log of inspect_ai"):
        list(read_any(cut, ["match"]).rollouts)
    other = tmp_path / "other.eval"
    with zipfile.ZipFile(other, "w") as archive:
        archive.writestr("header.json", '{"version": 2, "eval": {}}')
    with pytest.raises(InputError, match=r"other\.eval: cannot be read as a log of inspect_ai"):
        list(read_any(other).rollouts)


@pytest.mark.parametrize("kind", ["eval", "json"])
def test_damage_anywhere_is_an_input_error(
    inspect_logs: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    whole = inspect_logs[kind].read_bytes()
    generator = random.Random(0)
    refused = 0
    for _ in range(25):
        damaged = bytearray(whole)
        for _ in range(3):
            damaged[generator.randrange(len(damaged))] = generator.randrange(256)
        path = tmp_path / f"damaged.{kind}"
        path.write_bytes(damaged)
        try:
            list(read_any(path, ["match"]).rollouts)
        except InputError:
            refused += 1
    assert refused > 5


def test_a_member_that_unpacks_to_gigabytes_is_refused(
    inspect_logs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from timberkit.evaluation.readers import inspect_logs as module

    monkeypatch.setattr(module, "MOST_MEMBER_BYTES", 100)
    with pytest.raises(InputError, match="holds a member of"):
        list(read_any(inspect_logs["eval"], ["match"]).rollouts)
