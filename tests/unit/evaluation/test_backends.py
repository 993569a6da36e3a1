"""Opening a model: what identifies it, what its template does, what is sent to it."""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from timberkit.errors import CheckpointError, MissingExtraError, SourceError, UsageError
from timberkit.evaluation.backends import BackendOptions, describe, generate_config, open_model
from timberkit.evaluation.model_files import ModelFiles, fingerprint
from timberkit.evaluation.models import ModelSource, parse_model
from timberkit.evaluation.sampling import Sampling, resolve_sampling
from timberkit.sapling import base_folder, instruct_folder

pytest.importorskip("inspect_ai")

PUZZLE = "nums 6 3 7 make 60 :"


@pytest.fixture
def copied(tmp_path: Path) -> Path:
    return Path(shutil.copytree(instruct_folder(), tmp_path / "model"))


def source(folder: Path) -> ModelSource:
    return ModelSource("m", "folder", str(folder))


def identity(folder: Path) -> dict[str, Any]:
    return fingerprint(ModelFiles.of(source(folder)))


def test_a_folder_is_opened_asked_and_closed() -> None:
    sampling = resolve_sampling(describe(parse_model("sapling:instruct")))
    with open_model(parse_model("x=sapling:instruct"), options=BackendOptions(device="cpu")) as it:
        assert (it.source.name, it.fingerprint["dtype"]) == ("x", "float64")
        model = it.inspect_model(sampling, raw=False)
        output = asyncio.run(model.generate(PUZZLE))
    assert output.stop_reason == "stop"
    with pytest.raises(ValueError, match="closed"):
        asyncio.run(model.generate(PUZZLE))


def test_sapling_is_sampled_as_its_generation_config_says() -> None:
    found = resolve_sampling(describe(parse_model("sapling:base")))
    assert (found.temperature, found.top_p, found.top_k, found.max_tokens) == (1.0, 1.0, None, 32)


def test_a_copy_is_the_same_model_and_any_edit_is_another(copied: Path) -> None:
    before = identity(copied)
    assert before == identity(instruct_folder())
    assert json.loads(json.dumps(before)) == before
    assert before != identity(base_folder())
    weights = load_file(copied / "model.safetensors")
    weights["model.norm.weight"][0] += 1
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    assert identity(copied) != before


@pytest.mark.parametrize("name", ["chat_template.jinja", "generation_config.json", "config.json"])
def test_a_changed_side_file_is_another_model(copied: Path, name: str) -> None:
    before = identity(copied)
    file = copied / name
    file.write_text(file.read_text().rstrip() + "  \n")
    assert identity(copied) != before


def test_an_edit_of_every_weight_of_a_large_shard_is_seen_without_reading_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from timberkit.evaluation import model_files

    monkeypatch.setattr(model_files, "SAMPLE_BYTES", 64)
    monkeypatch.setattr(model_files, "SAMPLES", 4)
    found = []
    for name, change in (("a", 0.0), ("b", 1e-3)):
        folder = Path(shutil.copytree(instruct_folder(), tmp_path / name))
        weights = {
            key: value + change * value.abs().max()
            for key, value in load_file(folder / "model.safetensors").items()
        }
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        found.append(identity(folder)["weights"]["model.safetensors"])
    assert found[0]["header_sha256"] == found[1]["header_sha256"]
    assert found[0]["samples_sha256"] != found[1]["samples_sha256"]


@pytest.mark.parametrize(
    ("ending", "arguments", "opened"),
    [
        ("<|assistant|>", {}, False),
        ("<|assistant|><think>\n", {}, True),
        (
            "<|assistant|>{% if enable_thinking %}<think>{% endif %}",
            {"enable_thinking": True},
            True,
        ),
        (
            "<|assistant|>{% if enable_thinking %}<think>{% endif %}",
            {"enable_thinking": False},
            False,
        ),
    ],
)
def test_whether_the_template_opens_reasoning_is_found_by_rendering_it(
    copied: Path, ending: str, arguments: dict[str, Any], opened: bool
) -> None:
    template = copied / "chat_template.jinja"
    template.write_text(
        template.read_text().replace("<|assistant|>{% endif %}", ending + "{% endif %}")
    )
    sampling = Sampling(chat_template_kwargs=arguments)
    with open_model(source(copied), options=BackendOptions(device="cpu")) as model:
        assert model.opens_reasoning(sampling, raw=False) is opened
        assert model.opens_reasoning(sampling, raw=True) is False


@pytest.mark.parametrize(
    "template",
    [
        {"chat_template": "{{ own }}"},
        {"chat_template": [{"name": "default", "template": "{{ own }}"}, {"name": "rag"}, 5]},
    ],
)
def test_a_template_in_the_tokenizers_config_is_found(
    copied: Path, template: dict[str, Any]
) -> None:
    (copied / "chat_template.jinja").unlink()
    (copied / "tokenizer_config.json").write_text(json.dumps(template))
    assert describe(source(copied)).chat_template == "{{ own }}"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.json", b"[]"),
        ("config.json", b"{"),
        ("generation_config.json", b"[" * 100_000),
        ("tokenizer_config.json", b"\xff\xfe"),
        ("chat_template.jinja", b"\xff"),
    ],
)
def test_a_broken_side_file_is_named(copied: Path, name: str, content: bytes) -> None:
    (copied / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=name):
        describe(source(copied))


def test_a_model_without_a_template_is_asked_raw_only(copied: Path) -> None:
    (copied / "chat_template.jinja").unlink()
    with open_model(source(copied), options=BackendOptions(device="cpu")) as model:
        with pytest.raises(UsageError, match="--raw m"):
            model.inspect_model(Sampling(), raw=False)
        assert not model.opens_reasoning(Sampling(), raw=False)
        output = asyncio.run(model.inspect_model(Sampling(max_tokens=4), raw=True).generate(PUZZLE))
    assert output.usage is not None
    assert output.usage.output_tokens <= 4


def test_what_openai_lacks_goes_into_the_extra_body() -> None:
    sampling = Sampling(
        temperature=0.6,
        top_k=20,
        min_p=0.1,
        stops=("\n",),
        chat_template_kwargs={"enable_thinking": True},
    )
    options = BackendOptions(retries=3)
    chat = generate_config(sampling, raw=False, connections=5, options=options)
    raw = generate_config(sampling, raw=True, connections=5, options=options)
    assert chat.extra_body == {
        "top_k": 20,
        "min_p": 0.1,
        "chat_template_kwargs": {"enable_thinking": True},
    }
    assert raw.extra_body == {"top_k": 20, "min_p": 0.1}
    assert (chat.top_k, chat.stop_seqs, chat.max_connections, chat.max_retries) == (
        *(None, ["\n"], 5, 3),
    )
    assert generate_config(Sampling(), raw=True, connections=1, options=options).extra_body is None


def test_a_strict_server_gets_standard_fields_and_the_user_hears_what_is_missing() -> None:
    notices: list[str] = []
    options = BackendOptions(fields="standard", notify=notices.append)
    found = generate_config(Sampling(top_p=0.9, top_k=20), raw=True, connections=1, options=options)
    assert (found.top_p, found.extra_body) == (0.9, None)
    assert notices == ["not sent, as only standard fields are: top_k"]


@pytest.mark.parametrize(
    "fields",
    [
        {"dtype": "int8"},
        {"batch_size": 0},
        {"connections": -1},
        {"tensor_parallel": 0},
        {"request_seconds": 0},
        {"start_seconds": float("nan")},
        {"retries": -1},
    ],
)
def test_an_option_of_no_use_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(UsageError, match=next(iter(fields))):
        BackendOptions(**fields)


def test_a_model_of_the_hub_is_pinned_to_the_commit_that_was_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import huggingface_hub

    commit = "0123456789" * 4
    root = tmp_path / "models--org--name"
    shutil.copytree(instruct_folder(), root / "snapshots" / commit)
    (root / "refs").mkdir()
    (root / "refs/main").write_text(commit)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    with open_model(parse_model("org/name"), options=BackendOptions(device="cpu")) as model:
        assert model.source == ModelSource("name", "hub", "org/name", commit)
        assert (model.fingerprint["id"], model.fingerprint["revision"]) == ("org/name", commit)


def test_a_folder_that_is_no_model_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError), open_model(source(tmp_path)):
        pytest.fail("it was opened")
    with pytest.raises(SourceError), open_model(source(tmp_path / "none")):
        pytest.fail("it was opened")


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "inspect_ai", None)
    with (
        pytest.raises(MissingExtraError, match=r"timberkit\[eval\]"),
        open_model(parse_model("sapling:base")),
    ):
        pytest.fail("it was opened")


def test_looking_at_models_imports_nothing_heavy() -> None:
    import subprocess

    program = (
        "import sys\n"
        "from timberkit.evaluation.backends import describe\n"
        "from timberkit.evaluation.models import parse_model\n"
        "describe(parse_model('sapling:base'))\n"
        "print(sorted({'torch', 'transformers', 'inspect_ai', 'openai'} & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
