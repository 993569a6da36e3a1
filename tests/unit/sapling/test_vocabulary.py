"""The vocabulary and the tokenizer files say the same."""

from __future__ import annotations

import json
from typing import Any

import pytest

from timberkit.sapling import Problem, base_folder, instruct_folder, load_problems
from timberkit.sapling.training.corpus import chat_text
from timberkit.sapling.vocabulary import CHAT_TEMPLATE, IDS, VOCABULARY, chat_prompt, encode

FOLDERS = (base_folder(), instruct_folder())


@pytest.fixture(params=FOLDERS, ids=lambda folder: folder.name)
def tokenizer(request: pytest.FixtureRequest) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(request.param)


def test_vocabulary_has_147_distinct_words_and_every_number_below_100() -> None:
    assert len(VOCABULARY) == len(IDS) == 147
    assert all(str(number) in IDS for number in range(100))


def test_encode_names_an_unknown_word() -> None:
    with pytest.raises(ValueError, match="'100'"):
        encode("7 + 100")


def test_chat_prompt_equals_the_chat_template_of_the_shipped_tokenizer(tokenizer: Any) -> None:
    for problem in load_problems(n=20) + load_problems("held-out-4", n=5):
        messages = [{"role": "user", "content": problem.prompt}]
        inputs = tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True
        )
        assert inputs["input_ids"] == chat_prompt(problem)


def test_whole_exchange_in_the_template_equals_the_training_text(tokenizer: Any) -> None:
    problem, answer = Problem((6, 3, 7), 60), "7 + 3 = 10 ; 10 * 6 = 60"
    messages = [
        {"role": "user", "content": problem.prompt},
        {"role": "assistant", "content": answer},
    ]
    ids = tokenizer.apply_chat_template(messages, return_dict=True)["input_ids"]
    assert ids == encode(chat_text(problem, answer))


def test_plain_text_starts_with_one_bos_and_decodes_to_itself(tokenizer: Any) -> None:
    text = "nums 6 3 7 make 60 :"
    ids = tokenizer(text)["input_ids"]
    assert ids == [IDS["<s>"], *encode(text)]
    assert tokenizer.decode(ids, skip_special_tokens=True) == text


def test_unknown_role_is_refused_by_the_template(tokenizer: Any) -> None:
    from jinja2 import TemplateError

    with pytest.raises(TemplateError, match="only user and assistant"):
        tokenizer.apply_chat_template([{"role": "tool", "content": "x"}])


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_shipped_files_hold_this_vocabulary_and_template(folder: Any) -> None:
    assert json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"] == IDS
    assert (folder / "chat_template.jinja").read_text() == CHAT_TEMPLATE
