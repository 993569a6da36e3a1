"""Diff-eRank against a direct computation, and pairs that cannot be compared."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from timberkit.config import build_analyze_recipe
from timberkit.engine.sources import OpenPair, open_pair
from timberkit.errors import (
    InputError,
    MissingExtraError,
    PairMismatchError,
    SpectrumError,
    UsageError,
)
from timberkit.sapling import base_folder, instruct_folder
from timberkit.sapling.models import quiet
from timberkit.study import hidden_states
from timberkit.study.hidden_states import TextStudy, prepare_texts, state_entropy

TEXTS = "nums 6 3 7 make 60 :\n<|user|> nums 2 5 make 10 : <|assistant|> 2 * 5 = 10 </s>\n1 + 2\n"


def direct_rank(states: NDArray[np.float64]) -> float:
    """The definition, step by step, with a full covariance matrix."""
    centred = states - states.mean(axis=0)
    unit = centred / np.linalg.norm(centred, axis=1, keepdims=True)
    covariance = unit.T @ unit / len(unit)
    eigenvalues = np.linalg.svd(covariance / np.trace(covariance), compute_uv=False)
    shares = eigenvalues[eigenvalues > 1e-15]
    return math.exp(-(shares * np.log(shares)).sum())


@pytest.mark.parametrize("shape", [(5, 40), (40, 5), (12, 12), (2, 7)])
def test_entropy_is_that_of_the_covariance(shape: tuple[int, int]) -> None:
    states = np.random.default_rng([1, *shape]).standard_normal(shape) + 3
    found = math.exp(state_entropy(torch.from_numpy(states)))
    assert found == pytest.approx(direct_rank(states), rel=1e-9)
    assert found <= shape[0] - (shape[0] <= shape[1]) + 1


def test_scale_offset_and_rotation_change_nothing() -> None:
    rng = np.random.default_rng(0)
    states = torch.from_numpy(rng.standard_normal((9, 6)))
    rotation = torch.from_numpy(np.linalg.qr(rng.standard_normal((6, 6)))[0])
    expected = state_entropy(states)
    for other in (states * 1e-3, states + 5.0, states @ rotation, states.flip(0)):
        assert state_entropy(other) == pytest.approx(expected, rel=1e-9)


def test_known_spectra() -> None:
    line = torch.arange(6.0).unsqueeze(1) * torch.tensor([1.0, 2.0, 3.0])
    assert state_entropy(line) == pytest.approx(0.0, abs=1e-9)
    assert state_entropy(torch.ones(4, 3)) == 0.0
    cross = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [0.0, 5.0], [0.0, -5.0]])
    assert state_entropy(cross) == pytest.approx(math.log(2))


def test_bad_states_are_refused() -> None:
    with pytest.raises(SpectrumError, match="finite hidden states"):
        state_entropy(torch.tensor([[1.0, math.nan], [0.0, 1.0]]))


def prepared(
    folder: Path, texts: str | None = TEXTS, base: Path | None = None, instruct: Path | None = None
) -> TextStudy:
    """A study of a pair (the embedded one unless given) on these texts."""
    fields: dict[str, Any] = {
        "base": str(base or base_folder()),
        "instruct": str(instruct or instruct_folder()),
        "hidden_states": True,
    }
    if texts is not None:
        (folder / "texts.txt").write_text(texts)
        fields["prompts"] = str(folder / "texts.txt")
    recipe = build_analyze_recipe(fields)
    pair: OpenPair = open_pair(recipe.refinement())
    return prepare_texts(pair, recipe)


def test_every_layer_of_both_models_is_measured_on_the_same_tokens(tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    study = prepared(tmp_path)
    seen: list[tuple[int, int]] = []
    found = study.measure(lambda done, total: seen.append((done, total)))
    assert seen == [(i, 6) for i in range(1, 7)]
    tokenizer: Any = AutoTokenizer.from_pretrained(base_folder())
    ranks = []
    for folder in (base_folder(), instruct_folder()):
        with quiet():
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
        layers = []
        for text in TEXTS.splitlines():
            with torch.no_grad():
                inputs = tokenizer(text, return_tensors="pt")
                states = model(**inputs, output_hidden_states=True).hidden_states
            layers.append([math.log(direct_rank(state[0].double().numpy())) for state in states])
        ranks.append(np.exp(np.mean(layers, axis=0)))
    assert [row.layer for row in found] == [0, 1, 2, 3]
    assert [row.base for row in found] == pytest.approx(ranks[0], rel=1e-4)
    assert [row.instruct for row in found] == pytest.approx(ranks[1], rel=1e-4)
    for row in found:
        assert row.difference == row.base - row.instruct
        assert row.tokens == study.facts["text_tokens"] == 8 + 15 + 4
    assert study.facts["texts"] == 3


def test_the_embedded_pair_brings_its_own_texts(tmp_path: Path) -> None:
    study = prepared(tmp_path, texts=None)
    assert len(study.ids) == 300
    assert {len(ids) for ids in study.ids} == {22}


def copied(folder: Path, source: Path, name: str) -> Path:
    return Path(shutil.copytree(source, folder / name))


def test_another_pair_needs_texts(tmp_path: Path) -> None:
    other = copied(tmp_path, instruct_folder(), "other")
    (other / "tokenizer.json").unlink()
    with pytest.raises(UsageError, match="--prompts FILE"):
        prepared(tmp_path, texts=None, instruct=other)


def test_texts_that_both_read_differently_cannot_be_compared(tmp_path: Path) -> None:
    other = copied(tmp_path, instruct_folder(), "other")
    tokenizer = json.loads((other / "tokenizer.json").read_text())
    words = tokenizer["model"]["vocab"]
    words["7"], words["8"] = words["8"], words["7"]
    (other / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(PairMismatchError, match="text 1: the tokenizers"):
        prepared(tmp_path, instruct=other)


def test_a_text_of_one_token_is_named(tmp_path: Path) -> None:
    study = prepared(tmp_path, "1 + 2\n3\n")
    assert [len(ids) for ids in study.ids] == [4, 2]
    other = copied(tmp_path, base_folder(), "other")
    second = copied(tmp_path, instruct_folder(), "second")
    for folder in (other, second):  # without its template no first token is added
        tokenizer = json.loads((folder / "tokenizer.json").read_text())
        tokenizer["post_processor"] = None
        (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    with pytest.raises(InputError, match="text 2: found 1 tokens"):
        prepared(tmp_path, "1 + 2\n3\n", base=other, instruct=second)


def test_long_texts_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hidden_states, "LONGEST_TEXT_TOKENS", 5)
    assert [len(ids) for ids in prepared(tmp_path).ids] == [5, 5, 4]


def test_a_model_with_code_of_its_own_is_refused_and_its_code_not_run(tmp_path: Path) -> None:
    other = copied(tmp_path, instruct_folder(), "other")
    config = json.loads((other / "config.json").read_text())
    config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoModel": "own.Own"}}
    (other / "config.json").write_text(json.dumps(config))
    marker = tmp_path / "was run"
    (other / "own.py").write_text(f"open({str(marker)!r}, 'w')\nclass Own: pass\n")
    study = TextStudy((base_folder(), other), ((1, 2, 3),), "")
    with pytest.raises(InputError, match=r"other: transformers .* cannot load it"):
        study.measure(lambda done, total: None)
    assert not marker.exists()


def test_another_number_of_layers_is_refused(tmp_path: Path) -> None:
    other = copied(tmp_path, instruct_folder(), "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    study = TextStudy((base_folder(), other), ((1, 2, 3),), "")
    with pytest.raises(PairMismatchError, match="3 layers in Base, 2 in Instruct"):
        study.measure(lambda done, total: None)


def test_tokens_that_the_model_does_not_know_are_refused() -> None:
    study = TextStudy((base_folder(), instruct_folder()), ((1, 2), (1, 147)), "")
    with pytest.raises(InputError, match="base: text 2 has the token 147, the model knows 147"):
        study.measure(lambda done, total: None)


def test_absent_transformers_names_the_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(MissingExtraError, match=r"timberkit\[eval\]"):
        prepared(tmp_path)
