"""Real architectures, tiny: what is refined loads, and computes what refining in memory gives."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

import timberkit
from timberkit.config import Timber

TOKENS = torch.arange(24).reshape(2, 12) * 5
SMALL = {
    "vocab_size": 128,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
EXPERTS = 4
MIXTURE = {"num_experts": EXPERTS, "num_experts_per_tok": 2, "moe_intermediate_size": 40}

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama with biases": ("LlamaConfig", {"attention_bias": True, "mlp_bias": True}),
    "llama with tied embeddings": ("LlamaConfig", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3Config", {}),
    "qwen3-moe": ("Qwen3MoeConfig", MIXTURE),
}
SHARDINGS = {"one file each": (None, None), "sharded differently": ("40KB", "70KB")}

Pair = tuple[Path, Path]
MakePair = Callable[..., Pair]


@pytest.fixture(scope="module")
def make_pair(tmp_path_factory: pytest.TempPathFactory) -> MakePair:
    """Save a Base with random weights and an Instruct a little way from it; once per kind."""
    made: dict[tuple[str, str], Pair] = {}

    def make(architecture: str, sharding: str = "one file each") -> Pair:
        if (architecture, sharding) not in made:
            place = tmp_path_factory.mktemp("pair")
            folders = (place / "base", place / "instruct")
            save_pair(*ARCHITECTURES[architecture], folders, SHARDINGS[sharding])
            made[architecture, sharding] = folders
        return made[architecture, sharding]

    return make


def save_pair(
    config_class: str, options: dict[str, Any], folders: Pair, shard_sizes: tuple[Any, Any]
) -> None:
    import transformers

    config = getattr(transformers, config_class)(**SMALL, **options)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
        for folder, shard_size in zip(folders, shard_sizes, strict=True):
            for parameter in model.parameters():  # biases are made as zeros, norms as ones
                parameter.data.add_(torch.randn_like(parameter) * 0.005)
            model.save_pretrained(folder, max_shard_size=shard_size or "1GB")


def logits(folder: Path) -> torch.Tensor:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    assert model.dtype in (torch.bfloat16, torch.float32)
    with torch.no_grad():
        found: torch.Tensor = model(TOKENS).logits
    return found


def in_memory(pair: Pair, checkpoints: Any, folder: Path, **options: Any) -> Path:
    """The pair's files refined as state dicts, saved in one file by the safetensors library."""
    base, instruct = map(checkpoints.read, pair)
    (refined,) = timberkit.refine_state_dicts(base, instruct, **options).values()
    folder.mkdir()
    save_file(refined, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copy(pair[1] / "config.json", folder)
    return folder


@pytest.mark.parametrize("sharding", SHARDINGS)
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_output_loads_and_computes_exactly_what_refining_in_memory_gives(
    make_pair: MakePair, checkpoints: Any, tmp_path: Path, architecture: str, sharding: str
) -> None:
    pair = make_pair(architecture, sharding)
    timberkit.refine(*pair, tmp_path / "out", variants="timber:lam=0.3")
    expected = in_memory(pair, checkpoints, tmp_path / "memory", variants="timber:lam=0.3")
    assert checkpoints.equal(checkpoints.read(tmp_path / "out"), checkpoints.read(expected))
    found = logits(tmp_path / "out")
    assert torch.equal(found, logits(expected))
    assert not torch.equal(found, logits(pair[1]))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_sharded_output_has_the_shards_and_the_complete_index_of_instruct(
    make_pair: MakePair, checkpoints: Any, tmp_path: Path, architecture: str
) -> None:
    base, instruct = make_pair(architecture, "sharded differently")
    timberkit.refine(base, instruct, tmp_path / "out", dtype="float32")
    shards = {path.name for path in (tmp_path / "out").glob("*.safetensors")}
    assert shards == {path.name for path in instruct.glob("*.safetensors")}
    assert shards != {path.name for path in base.glob("*.safetensors")}
    assert len(shards) > 1
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    found = checkpoints.read(tmp_path / "out")
    assert index["weight_map"].keys() == found.keys()
    assert set(index["weight_map"].values()) == shards
    sizes = [tensor.numel() * tensor.element_size() for tensor in found.values()]
    assert index["metadata"]["total_size"] == sum(sizes)
    assert checkpoints.formats(tmp_path / "out") == {"pt"}


def test_format_is_added_where_instruct_names_none(
    make_pair: MakePair, checkpoints: Any, tmp_path: Path
) -> None:
    base, instruct = make_pair("qwen3")
    bare = Path(shutil.copytree(instruct, tmp_path / "instruct"))
    save_file(checkpoints.read(instruct), bare / "model.safetensors")
    assert checkpoints.formats(bare) == {None}
    timberkit.refine(base, bare, tmp_path / "out")
    assert checkpoints.formats(tmp_path / "out") == {"pt"}
    assert torch.isfinite(logits(tmp_path / "out")).all()


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_norms_biases_and_embeddings_keep_their_bits(
    make_pair: MakePair, checkpoints: Any, tmp_path: Path, architecture: str
) -> None:
    pair = make_pair(architecture)
    timberkit.refine(*pair, tmp_path / "out", variants="timber-l")
    found, instruct = checkpoints.read(tmp_path / "out"), checkpoints.read(pair[1])
    same = {n for n in instruct if checkpoints.equal({n: found[n]}, {n: instruct[n]})}
    kept = {n for n in instruct if not n.endswith("_proj.weight")}
    assert same == kept
    assert any("norm" in name for name in kept)
    assert any(name.endswith(".bias") for name in kept) == ("biases" in architecture)
    assert ("lm_head.weight" in kept) == ("tied" not in architecture)
    copied = checkpoints.manifest(tmp_path / "out")["copied"]
    assert copied.keys() == kept


def test_tied_embeddings_stay_tied(make_pair: MakePair, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    pair = make_pair("llama with tied embeddings")
    timberkit.refine(*pair, tmp_path / "out", families=["all-linear", "embedding"])
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert model.lm_head.weight is model.model.embed_tokens.weight
    original = AutoModelForCausalLM.from_pretrained(pair[1])
    assert not torch.equal(model.lm_head.weight, original.lm_head.weight)


def test_manifest_lists_each_expert_of_a_mixture(
    make_pair: MakePair, checkpoints: Any, tmp_path: Path
) -> None:
    result = timberkit.refine(*make_pair("qwen3-moe"), tmp_path / "out")
    refined = checkpoints.manifest(tmp_path / "out")["refined"]
    experts = {(r["name"], r["index"]) for r in refined if r["family"] == "expert"}
    prefix = "model.layers.{}.mlp.experts.{}.{}_proj.weight"
    assert experts == {
        (prefix.format(layer, expert, module), None)
        for layer in range(2)
        for expert in range(EXPERTS)
        for module in ("gate", "up", "down")
    }
    routers = {t.name: t.reason for t in result.plan.tensors if t.family == "router"}
    assert routers == {
        f"model.layers.{layer}.mlp.gate.weight": "family router not selected" for layer in range(2)
    }


def test_each_expert_of_a_fused_tensor_is_refined_by_itself(
    checkpoints: Any, tmp_path: Path
) -> None:
    generator = torch.Generator().manual_seed(0)
    names = {
        "model.layers.0.mlp.experts.gate_up_proj": (3, 24, 40),
        "model.layers.0.mlp.experts.down_proj": (3, 40, 12),
    }
    base = {n: torch.randn(s, generator=generator).bfloat16() for n, s in names.items()}
    instruct = {
        n: (w + 0.01 * torch.randn(w.shape, generator=generator)).bfloat16()
        for n, w in base.items()
    }
    pair = (
        checkpoints.write(tmp_path / "base", [base]),
        checkpoints.write(tmp_path / "instruct", list(halves(instruct))),
    )
    timberkit.refine(*pair, tmp_path / "out", variants="timber:lam=0.2")
    found = checkpoints.read(tmp_path / "out")
    for name, weight in found.items():
        slices = zip(base[name], instruct[name], strict=True)
        alone = [timberkit.refine_matrix(b, i, [Timber(lam=0.2)]).weights[0] for b, i in slices]
        assert torch.equal(weight, torch.stack(alone))
    assert checkpoints.equal(found, timberkit.refine_state_dicts(base, instruct)["timber_lam0.2"])
    refined = checkpoints.manifest(tmp_path / "out")["refined"]
    assert [(r["name"], r["index"]) for r in refined] == [
        (name, index) for name in sorted(names) for index in range(3)
    ]
    assert timberkit.verify(tmp_path / "out", every=True).passed


def halves(tensors: dict[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    items = list(tensors.items())
    yield dict(items[: len(items) // 2])
    yield dict(items[len(items) // 2 :])


@pytest.fixture
def grown(make_pair: MakePair, checkpoints: Any, tmp_path: Path) -> Pair:
    """Instruct with sixteen more words than Base."""
    base, instruct = make_pair("qwen3")
    tensors, config = checkpoints.read(instruct), json.loads((instruct / "config.json").read_text())
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = torch.cat([tensors[name], tensors[name][:16]])
    config["vocab_size"] += 16
    return base, checkpoints.write(tmp_path / "grown", [tensors], **config)


def test_grown_vocabulary_is_kept_and_loads(grown: Pair, checkpoints: Any, tmp_path: Path) -> None:
    timberkit.refine(*grown, tmp_path / "out")
    assert logits(tmp_path / "out").shape[-1] == SMALL["vocab_size"] + 16
    found, instruct = checkpoints.read(tmp_path / "out"), checkpoints.read(grown[1])
    name = "model.embed_tokens.weight"
    assert torch.equal(found[name], instruct[name])


@pytest.mark.parametrize("smaller", ["base", "instruct"])
@pytest.mark.parametrize("dtype", [None, "float32"])
def test_of_two_vocabularies_the_common_rows_are_refined_if_asked(
    grown: Pair, checkpoints: Any, tmp_path: Path, smaller: str, dtype: str | None
) -> None:
    """Grown by Instruct, or padded in Base: as if the common rows were the whole tensor."""
    pair = grown if smaller == "base" else grown[::-1]
    families = ["attention", "embedding", "head"]
    result = timberkit.refine(*pair, tmp_path / "out", families=families, dtype=dtype)
    base, instruct = map(checkpoints.read, pair)
    found = checkpoints.read(tmp_path / "out")
    common, names = SMALL["vocab_size"], ("model.embed_tokens.weight", "lm_head.weight")
    for name in names:
        alone = timberkit.refine_matrix(
            base[name][:common], instruct[name][:common], [Timber()], dtype=found[name].dtype
        ).weights[0]
        assert torch.equal(found[name][:common], alone)
        assert not torch.equal(alone, instruct[name][:common].to(alone.dtype))
        assert torch.equal(found[name][common:], instruct[name][common:].to(alone.dtype))
    in_memory = timberkit.refine_state_dicts(
        base, instruct, variants="timber", families=families, dtype=found[names[0]].dtype
    )
    assert all(torch.equal(found[name], next(iter(in_memory.values()))[name]) for name in names)
    assert logits(tmp_path / "out").shape[-1] == len(instruct[names[0]])
    assert checkpoints.manifest(tmp_path / "out")["common_rows"] == dict.fromkeys(names, common)
    assert {tensor.name for tensor in result.plan.other_vocabulary} == set(names)
    assert timberkit.verify(tmp_path / "out", every=True).passed


def test_rows_that_base_lacks_are_verified(grown: Pair, checkpoints: Any, tmp_path: Path) -> None:
    timberkit.refine(*grown, tmp_path / "out", families=["attention", "head"])
    found = checkpoints.read(tmp_path / "out")
    with open(tmp_path / "out" / "model.safetensors", "r+b") as file:
        place = file.read().find(found["lm_head.weight"][-1].view(torch.uint8).numpy().tobytes())
        file.seek(place)
        file.write(b"\0\0")
    failed = [c.name for c in timberkit.verify(tmp_path / "out").checks if not c.passed]
    assert {"hashes", "copies"} <= set(failed)


@pytest.mark.parametrize("with_head", ["base", "instruct"])
def test_a_tied_head_that_one_side_stores_is_neither_doubled_nor_lost(
    make_pair: MakePair, checkpoints: Any, tmp_path: Path, with_head: str
) -> None:
    """Tied weights, lm_head stored by one of the two: the output is as Instruct stores it."""
    import transformers

    folders = dict(zip(("base", "instruct"), make_pair("llama with tied embeddings"), strict=True))
    for which, folder in folders.items():
        tensors = checkpoints.read(folder)
        assert "lm_head.weight" not in tensors
        if which == with_head:
            tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].clone()
        config = json.loads((folder / "config.json").read_text())
        folders[which] = checkpoints.write(tmp_path / which, [tensors], **config)
    variants = ["merge:mu=1.0", "timber"]
    timberkit.refine(folders["base"], folders["instruct"], tmp_path / "out", variants=variants)
    stored = set(checkpoints.read(folders["instruct"]))
    for folder in sorted((tmp_path / "out").iterdir()):
        assert set(checkpoints.read(folder)) == stored
        model, loading = transformers.AutoModelForCausalLM.from_pretrained(
            folder, output_loading_info=True
        )
        assert not any(loading.values())
        head, words = model.get_output_embeddings().weight, model.get_input_embeddings().weight
        assert head.data_ptr() == words.data_ptr()
        assert timberkit.verify(folder).passed
    same = next(folder for folder in (tmp_path / "out").iterdir() if "merge" in folder.name)
    assert torch.equal(logits(same), logits(folders["instruct"]))


def test_tensors_of_one_side_only_are_kept_from_instruct_and_named_from_base(
    make_pair: MakePair, checkpoints: Any, tmp_path: Path
) -> None:
    base, instruct = map(checkpoints.read, make_pair("qwen3"))
    new, old = "model.layers.1.self_attn.g_proj.weight", "model.layers.1.mlp.old_proj.weight"
    instruct[new] = torch.randn(8, 64).bfloat16()
    base[old] = torch.randn(8, 64).bfloat16()
    pair = (
        checkpoints.write(tmp_path / "base", [base]),
        checkpoints.write(tmp_path / "instruct", [instruct]),
    )
    result = timberkit.refine(*pair, tmp_path / "out")
    found, manifest = checkpoints.read(tmp_path / "out"), checkpoints.manifest(tmp_path / "out")
    assert torch.equal(found[new], instruct[new])
    assert manifest["copied"][new] == "not in Base"
    assert old not in found
    assert manifest["base_only"] == [old] == list(result.plan.base_only)
    assert timberkit.verify(tmp_path / "out").passed
