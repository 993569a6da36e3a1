"""A model of transformers behind inspect_ai: texts, counts, reasons for stopping, errors."""

from __future__ import annotations

import asyncio
import gc
import json
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from timberkit.errors import CheckpointError, InputError, UsageError
from timberkit.sapling import instruct_folder

pytest.importorskip("inspect_ai")
from inspect_ai.model import ChatMessageUser, GenerateConfig

from timberkit.evaluation.loading import load_model
from timberkit.evaluation.local_engine import LocalEngine
from timberkit.evaluation.local_model import inspect_model
from timberkit.evaluation.sampling import Sampling

PUZZLE = "nums 6 3 7 make 60 :"


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    """A copy of the Instruct model, to be spoilt."""
    return Path(shutil.copytree(instruct_folder(), tmp_path / "model"))


@pytest.fixture(scope="module")
def engine() -> Iterator[LocalEngine]:
    made = LocalEngine(instruct_folder(), device="cpu")
    yield made
    made.close()


def chat(engine: LocalEngine, **fields: Any) -> Any:
    seed = fields.pop("seed", None)
    sampling = Sampling(**{"temperature": 1.0, "max_tokens": 32, **fields})
    prompt = engine.render([{"role": "user", "content": PUZZLE}], {})
    return engine.submit(prompt, sampling, seed=seed)


def edit(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


@pytest.mark.usefixtures("one_thread")
def test_texts_are_the_same_for_every_batch_size() -> None:
    texts = []
    for batch_size in (1, 7, 64):
        made = LocalEngine(instruct_folder(), device="cpu", batch_size=batch_size)
        futures = [chat(made, seed=seed) for seed in range(64)]
        texts.append([future.result(timeout=60).text for future in futures])
        made.close()
    assert texts[0] == texts[1] == texts[2]
    assert len(set(texts[0])) > 10


def test_an_answer_ends_with_its_end_token_which_is_counted_and_not_shown(
    engine: LocalEngine,
) -> None:
    found = chat(engine, temperature=0.0).result(timeout=60)
    assert found.reason == "stop"
    assert "</s>" not in found.text
    assert found.output_tokens == len(found.text.split()) + 1
    assert found.input_tokens == len(PUZZLE.split()) + 3, "<s>, <|user|>, <|assistant|>"


def test_a_raw_prompt_begins_with_one_bos_also_where_it_is_written_out(
    engine: LocalEngine,
) -> None:
    counts = [
        engine.submit(prompt, Sampling(max_tokens=1), raw=True).result(60).input_tokens
        for prompt in (PUZZLE, f"<s> {PUZZLE}")
    ]
    assert counts == [len(PUZZLE.split()) + 1] * 2


def test_an_answer_that_is_cut_says_so(engine: LocalEngine) -> None:
    found = chat(engine, max_tokens=3).result(timeout=60)
    assert (found.reason, found.output_tokens) == ("max_tokens", 3)


def test_the_end_of_the_context_is_its_own_reason(copied: Path) -> None:
    edit(copied / "config.json", max_position_embeddings=14)
    made = LocalEngine(copied, device="cpu")
    prompt_tokens = len(PUZZLE.split()) + 3
    found = chat(made, temperature=0.0).result(timeout=60)
    assert (found.reason, found.output_tokens) == ("model_length", 14 - prompt_tokens)
    long = made.submit(f"{PUZZLE} {PUZZLE}", Sampling(), raw=True).result(60)
    assert (long.reason, long.text, long.output_tokens) == ("model_length", "", 0)
    made.close()


def test_a_stop_string_of_several_tokens_ends_the_answer_and_is_cut_off(
    engine: LocalEngine,
) -> None:
    whole = chat(engine, temperature=0.0).result(timeout=60)
    words = whole.text.split()
    stop = f"= {words[4]} ;"
    assert stop in whole.text
    found = chat(engine, temperature=0.0, stops=("nowhere", stop)).result(timeout=60)
    assert found.text == whole.text[: whole.text.index(stop)]
    assert (found.reason, found.output_tokens) == ("stop", 6)


def test_end_tokens_come_from_the_generation_config_as_number_or_list(copied: Path) -> None:
    semicolon = json.loads((copied / "tokenizer.json").read_text())["model"]["vocab"][";"]
    edit(copied / "generation_config.json", eos_token_id=[2, semicolon])
    made = LocalEngine(copied, device="cpu")
    found = chat(made, temperature=0.0).result(timeout=60)
    assert (found.reason, found.output_tokens) == ("stop", 6)
    made.close()


def test_without_a_seed_answers_differ(engine: LocalEngine) -> None:
    assert len({chat(engine).result(timeout=60).text for _ in range(20)}) > 1


def test_inspect_asks_it_as_any_model(engine: LocalEngine) -> None:
    config = GenerateConfig(temperature=0.0, max_tokens=32, max_connections=4)
    model = inspect_model(engine, "tuned", config, raw=False)
    output = asyncio.run(model.generate(PUZZLE, config=GenerateConfig(seed=1)))
    assert str(model) == "timberkit/tuned"
    assert output.completion == chat(engine, temperature=0.0).result(60).text
    assert output.stop_reason == "stop"
    assert output.usage is not None
    assert output.usage.total_tokens == output.usage.input_tokens + output.usage.output_tokens


def test_top_k_and_min_p_arrive_through_extra_body(engine: LocalEngine) -> None:
    greedy = chat(engine, temperature=0.0).result(timeout=60).text
    for body in ({"top_k": 1}, {"min_p": 1.0}):
        config = GenerateConfig(temperature=1.5, max_tokens=32, extra_body=body)
        model = inspect_model(engine, "m", config, raw=False)
        assert asyncio.run(model.generate([ChatMessageUser(content=PUZZLE)])).completion == greedy


def test_a_cancelled_request_leaves_the_others_alone(engine: LocalEngine) -> None:
    futures = [chat(engine, seed=seed) for seed in range(8)]
    futures[3].cancel()
    assert all(future.result(timeout=60).text for future in futures[:3] + futures[4:])


def test_a_model_without_a_chat_template_is_asked_with_raw_prompts_only(copied: Path) -> None:
    (copied / "chat_template.jinja").unlink()
    made = LocalEngine(copied, device="cpu")
    with pytest.raises(UsageError, match="plain text"):
        inspect_model(made, "m", GenerateConfig(), raw=False)
    inspect_model(made, "m", GenerateConfig(), raw=True)
    made.close()


def test_a_template_that_refuses_the_messages_is_named(engine: LocalEngine) -> None:
    with pytest.raises(InputError, match="only user and assistant messages are known"):
        engine.render([{"role": "system", "content": "x"}], {})


def test_requests_after_the_end_are_refused_and_those_under_way_fail() -> None:
    made = LocalEngine(instruct_folder(), device="cpu", batch_size=1)
    futures = [chat(made, seed=seed) for seed in range(200)]
    made.close()
    made.close()
    failed = [future for future in futures if future.exception(timeout=10) is not None]
    assert failed
    with pytest.raises(ValueError, match="closed"):
        chat(made)


def test_a_closed_model_frees_its_memory_though_it_is_still_held() -> None:
    made = LocalEngine(instruct_folder(), device="cpu")
    model = weakref.ref(made._model)
    chat(made).result(timeout=60)
    made.close()
    gc.collect()
    assert model() is None
    assert made.dtype == "float64"


def test_an_answer_that_cannot_be_decoded_fails_alone(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = [True]

    def text(self: Any, tokens: Any) -> str:
        if left:
            left.pop()
            raise UnicodeError("odd bytes")
        return "fine"

    with monkeypatch.context() as patched:
        patched.setattr(LocalEngine, "_text", text)
        futures = [chat(engine, temperature=0.0) for _ in range(4)]
        errors = [future.exception(timeout=60) for future in futures]
    assert sorted(str(error) for error in errors) == ["None", "None", "None", "odd bytes"]


def test_a_batch_that_is_too_large_for_memory_is_halved_with_the_same_texts(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    notices: list[str] = []
    made = LocalEngine(instruct_folder(), device="cpu", batch_size=32, notify=notices.append)
    expected = [chat(made, seed=seed).result(timeout=60).text for seed in range(32)]
    forward = type(made._model).forward

    def limited(self: Any, input_ids: torch.Tensor, **options: Any) -> Any:
        if input_ids.shape[0] > 8 and options["attention_mask"].shape[1] % 3 == 0:
            raise torch.OutOfMemoryError("out of memory")
        return forward(self, input_ids, **options)

    monkeypatch.setattr(type(made._model), "forward", limited)
    futures = [chat(made, seed=seed) for seed in range(32)]
    assert [future.result(timeout=60).text for future in futures] == expected
    assert made.batch_size == 8
    assert ["out of memory" in notice for notice in notices] == [True, True]
    monkeypatch.setattr(type(made._model), "forward", _always_out_of_memory)
    assert isinstance(chat(made).exception(timeout=60), MemoryError)
    made.close()


def _always_out_of_memory(self: Any, *args: Any, **options: Any) -> Any:
    raise torch.OutOfMemoryError("out of memory")


def test_a_failure_inside_the_model_reaches_its_requests_and_ends_no_others(
    engine: LocalEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Any, *args: Any, **options: Any) -> Any:
        raise RuntimeError("kernel")

    with monkeypatch.context() as patched:
        patched.setattr(type(engine._model), "forward", fails)
        assert "kernel" in str(chat(engine).exception(timeout=60))
    assert chat(engine).result(timeout=60).text


def test_weights_that_are_missing_are_not_made_up(copied: Path) -> None:
    weights = load_file(copied / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"1 weights of LlamaForCausalLM .*layers\.1\.mlp"):
        load_model(copied)


def test_pickled_weights_are_not_loaded(copied: Path) -> None:
    torch.save(load_file(copied / "model.safetensors"), copied / "pytorch_model.bin")
    (copied / "model.safetensors").unlink()
    with pytest.raises(InputError, match="cannot load it"):
        load_model(copied)


def test_code_that_comes_with_a_checkpoint_is_not_run(copied: Path, tmp_path: Path) -> None:
    trace = tmp_path / "ran"
    (copied / "own.py").write_text(f"open({str(trace)!r}, 'w')\n")
    edit(
        copied / "config.json",
        model_type="own",
        auto_map={"AutoConfig": "own.Config", "AutoModelForCausalLM": "own.Model"},
    )
    with pytest.raises(InputError, match="cannot load it"):
        load_model(copied)
    assert not trace.exists()


@pytest.mark.parametrize("device", ["cuda:99", "tpu", ""])
def test_a_device_that_is_not_there_is_refused(device: str) -> None:
    with pytest.raises(UsageError, match="device"):
        load_model(instruct_folder(), device=device)
