"""Plans: what is refined or copied and why, what does not fit together, tasks and their order."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from timberkit.checkpoint.index import open_checkpoint
from timberkit.checkpoint.layout import Checkpoint, TensorEntry
from timberkit.config import Selection, build_recipe
from timberkit.engine.plan import RefinementPlan, plan_refinement, select_tensors
from timberkit.engine.tasks import CastTask, CopyTask, RefineTask
from timberkit.errors import CheckpointError, PairMismatchError, UsageError

L = "model.layers.0."
Q, UP, NORM = f"{L}self_attn.q_proj.weight", f"{L}mlp.up_proj.weight", f"{L}input_layernorm.weight"
EMBED, FUSED = "model.embed_tokens.weight", f"{L}mlp.experts.down_proj"
Tensors = Mapping[str, torch.Tensor]


def ordinary() -> dict[str, torch.Tensor]:
    shapes = {Q: (8, 8), UP: (16, 8), NORM: (8,), EMBED: (20, 8), FUSED: (3, 8, 4)}
    return {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in shapes.items()}


@pytest.fixture
def plan_of(tmp_path: Path) -> Callable[..., RefinementPlan]:
    """Write two checkpoints and plan their refinement."""

    def write(name: str, tensors: Tensors, config: Mapping[str, Any]) -> Checkpoint:
        folder = tmp_path / name
        folder.mkdir()
        save_file(dict(tensors), folder / "model.safetensors", {"format": "pt"})
        (folder / "config.json").write_text(json.dumps(config))
        return open_checkpoint(folder)

    def plan(
        base: Tensors | None = None,
        instruct: Tensors | None = None,
        configs: tuple[Mapping[str, Any], Mapping[str, Any]] = ({}, {}),
        **fields: Any,
    ) -> RefinementPlan:
        recipe = build_recipe({"base": "org/base", "instruct": "org/instruct", **fields})
        first = write("base", ordinary() if base is None else base, configs[0])
        second = write("instruct", ordinary() if instruct is None else instruct, configs[1])
        return plan_refinement(first, second, recipe)

    return plan


def actions(plan: RefinementPlan) -> dict[str, str]:
    return {tensor.name: tensor.reason or tensor.action for tensor in plan.tensors}


def test_linear_weights_are_refined_and_the_rest_copied_with_a_reason(
    plan_of: Callable[..., RefinementPlan],
) -> None:
    plan = plan_of()
    assert actions(plan) == {
        Q: "refine",
        UP: "refine",
        FUSED: "refine",
        NORM: "norm",
        EMBED: "family embedding not selected",
    }
    assert {tensor.name: tensor.matrices for tensor in plan.refined} == {Q: 1, UP: 1, FUSED: 3}
    assert plan.copy_reasons == {"norm": 1, "family embedding not selected": 1}
    assert plan.base_only == ()


def test_each_expert_of_a_fused_tensor_is_a_task_on_its_own_bytes(
    plan_of: Callable[..., RefinementPlan],
) -> None:
    tasks = [task for task in plan_of().refine_tasks if task.name == FUSED]
    assert sorted(task.key for task in tasks) == [f"refine {FUSED} [{i}]" for i in range(3)]
    ordered = sorted(tasks, key=lambda task: task.index or 0)
    for part in ("base", "instruct", "target"):
        places = [getattr(task, part) for task in ordered]
        starts = [place.start_byte for place in places]
        assert [start - starts[0] for start in starts] == [0, 64, 128]
        assert {place.size_bytes for place in places} == {64}
    assert {(task.rows, task.columns) for task in tasks} == {(8, 4)}
    assert [task.index for task in ordered] == [0, 1, 2]


def test_authors_families_take_experts_as_one_matrix(
    plan_of: Callable[..., RefinementPlan],
) -> None:
    plan = plan_of(families=["authors"])
    assert {tensor.name for tensor in plan.refined} == {Q, UP, FUSED, EMBED}
    fused = next(task for task in plan.refine_tasks if task.name == FUSED)
    assert (fused.rows, fused.columns, fused.index) == (3, 32, None)


def test_the_most_expensive_matrices_come_first_and_copies_last(
    plan_of: Callable[..., RefinementPlan],
) -> None:
    plan = plan_of()
    kinds = [type(task) for task in plan.tasks]
    assert kinds == [RefineTask] * 5 + [CopyTask] * (len(kinds) - 5)
    names = [task.name for task in plan.refine_tasks]
    assert names == [UP, Q, FUSED, FUSED, FUSED]
    assert len({task.key for task in plan.tasks}) == len(plan.tasks)


def test_the_plan_does_not_depend_on_the_order_of_tensors_in_base(
    plan_of: Callable[..., RefinementPlan], tmp_path: Path
) -> None:
    first = plan_of()
    for name in ("base", "instruct"):
        (tmp_path / name).rename(tmp_path / f"{name}-before")
    turned = plan_of(base=dict(reversed(ordinary().items())))
    assert first.tasks == turned.tasks


def test_what_only_instruct_has_is_copied_and_what_only_base_has_is_listed(
    plan_of: Callable[..., RefinementPlan],
) -> None:
    base = ordinary()
    del base[UP]
    base["model.extra.weight"] = torch.zeros(2, 2)
    plan = plan_of(base=base)
    assert actions(plan)[UP] == "not in Base"
    assert plan.base_only == ("model.extra.weight",)
    assert "model.extra.weight" not in plan.layout.tensors


def test_another_dtype_casts_what_is_copied_and_moves_offsets(
    plan_of: Callable[..., RefinementPlan],
) -> None:
    plan = plan_of(dtype="float32")
    casts = {task.name for task in plan.tasks if isinstance(task, CastTask)}
    assert casts == {NORM, EMBED}
    assert {task.target.dtype for task in plan.refine_tasks} == {"F32"}
    assert {task.instruct.dtype for task in plan.refine_tasks} == {"BF16"}
    for task in plan.refine_tasks:
        assert task.target.size_bytes == 2 * task.instruct.size_bytes


def test_output_bytes_count_every_variant(plan_of: Callable[..., RefinementPlan]) -> None:
    plan = plan_of(variants=["timber", "timber-l", "merge:mu=0.5"])
    assert plan.output_bytes == 3 * plan.layout.size_bytes


def test_shapes_that_differ_are_named_with_both_shapes(
    plan_of: Callable[..., RefinementPlan],
) -> None:
    base = ordinary()
    base[Q] = torch.zeros(8, 4, dtype=torch.bfloat16)
    with pytest.raises(PairMismatchError) as caught:
        plan_of(base=base)
    found = str(caught.value)
    assert f"{Q!r}: [8, 4] in Base, [8, 8] in Instruct" in found
    assert "--exclude" in found


def test_many_misfits_are_counted_not_listed(plan_of: Callable[..., RefinementPlan]) -> None:
    names = [f"model.layers.{i}.mlp.up_proj.weight" for i in range(7)]
    base = {name: torch.zeros(4, 4) for name in names}
    instruct = {name: torch.zeros(4, 6) for name in names}
    with pytest.raises(PairMismatchError, match="; and 4 more"):
        plan_of(base=base, instruct=instruct)


def test_another_vocabulary_is_said_to_be_one(plan_of: Callable[..., RefinementPlan]) -> None:
    base = ordinary()
    base[EMBED] = torch.zeros(20, 6, dtype=torch.bfloat16)
    with pytest.raises(PairMismatchError, match="two vocabularies need the same width"):
        plan_of(base=base, families=["ffn", "embedding"])


@pytest.mark.parametrize(("rows", "common"), [(18, 18), (24, 20)])
@pytest.mark.parametrize("dtype", [None, "float32"])
def test_of_two_vocabularies_every_byte_is_written_once(
    plan_of: Callable[..., RefinementPlan], rows: int, common: int, dtype: str | None
) -> None:
    base = ordinary()
    base[EMBED] = torch.zeros(rows, 8, dtype=torch.bfloat16)
    plan = plan_of(base=base, families=["ffn", "embedding"], dtype=dtype)
    task = next(task for task in plan.refine_tasks if task.name == EMBED)
    assert (task.rows, task.columns) == (common, 8)
    assert [tensor.name for tensor in plan.other_vocabulary] == [EMBED]
    written = []
    for each in plan.tasks:
        if isinstance(each, CopyTask):
            written.append((each.target_start, each.size_bytes))
        else:
            assert isinstance(each, RefineTask | CastTask)
            written.append((each.target.start_byte, each.target.size_bytes))
    written.sort()
    (shard,) = plan.layout.shards
    assert written[-1][0] + written[-1][1] == shard.size_bytes
    assert all(start + size == after for (start, size), (after, _) in pairwise(written))


def test_a_misfit_outside_the_selection_does_not_matter(
    plan_of: Callable[..., RefinementPlan],
) -> None:
    base = ordinary()
    base[EMBED] = torch.zeros(18, 8, dtype=torch.bfloat16)
    assert Q in {tensor.name for tensor in plan_of(base=base).refined}


def test_layers_are_counted_by_all_names_but_those_of_a_tower(
    plan_of: Callable[..., RefinementPlan],
) -> None:
    tensors = {
        **ordinary(),
        "model.layers.6.input_layernorm.weight": torch.zeros(4),
        "visual.blocks.30.attn.qkv.weight": torch.zeros(4, 4),
    }
    plan = plan_of(tensors, tensors)
    assert plan.layers == 7
    assert {task.position(plan.layers).layers for task in plan.refine_tasks} == {7}


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("noise:of=within:families=head,of=timber", "families head"),
        (f'free:gains={{"{NORM}": [1, 0]}}', f"gains for '{NORM}'"),
        (
            f'free:gains={{"{FUSED} [3]": [1, 0], "{FUSED} [2]": [1, 0]}}',
            f"'{FUSED} [3]', expected",
        ),
    ],
)
def test_a_method_that_means_no_refined_matrix_is_refused(
    plan_of: Callable[..., RefinementPlan], text: str, found: str
) -> None:
    with pytest.raises(UsageError, match="of the 5 matrices") as caught:
        plan_of(variants=["timber", text])
    assert found in str(caught.value)


def test_a_selection_of_nothing_says_why(plan_of: Callable[..., RefinementPlan]) -> None:
    with pytest.raises(UsageError, match=r"no tensor is left.*layer 0 not selected: 3"):
        plan_of(layers="5-9")


def test_names_that_base_does_not_have_at_all_are_another_model(
    plan_of: Callable[..., RefinementPlan],
) -> None:
    base = {f"other.{name}": tensor for name, tensor in ordinary().items()}
    with pytest.raises(PairMismatchError, match="none of the 3 selected tensors"):
        plan_of(base=base)


@pytest.mark.parametrize("which", ["base", "instruct"])
def test_quantised_weights_are_refused_naming_the_model_and_the_method(
    plan_of: Callable[..., RefinementPlan], which: str
) -> None:
    quantised = {"quantization_config": {"quant_method": "gptq"}}
    configs = (quantised, {}) if which == "base" else ({}, quantised)
    with pytest.raises(CheckpointError, match=rf"(?i){which}.*quantised \(gptq\)"):
        plan_of(configs=configs)


@pytest.mark.parametrize("which", ["base", "instruct"])
def test_fp8_weights_are_refused_without_a_configuration(
    plan_of: Callable[..., RefinementPlan], which: str
) -> None:
    tensors = ordinary()
    tensors[Q] = tensors[Q].to(torch.float8_e4m3fn)
    with pytest.raises(CheckpointError, match="fp8"):
        plan_of(**{which: tensors})


@pytest.mark.parametrize("which", ["Base", "Instruct"])
def test_a_selected_tensor_of_integers_is_refused_by_name(which: str) -> None:
    floats = {Q: TensorEntry(Q, "BF16", (8, 8), "m", 0, 128)}
    integers = {Q: TensorEntry(Q, "I8", (8, 8), "m", 0, 64)}
    pair = (integers, floats) if which == "Base" else (floats, integers)
    with pytest.raises(CheckpointError, match=rf"q_proj.weight' \({which}\): dtype I8"):
        select_tensors(*pair, Selection())


@pytest.mark.parametrize("scope", ["", "text_config"])
def test_configurations_of_different_models_are_refused_naming_the_field(
    plan_of: Callable[..., RefinementPlan], scope: str
) -> None:
    def config(size: int) -> dict[str, Any]:
        fields = {"hidden_size": size, "model_type": "llama"}
        return {scope: fields} if scope else fields

    with pytest.raises(PairMismatchError, match="hidden_size is 8 in Base and 16 in Instruct"):
        plan_of(configs=(config(8), config(16)))


@pytest.mark.parametrize(
    "configs",
    [
        ({"vocab_size": 1}, {"vocab_size": 2}),
        ({"hidden_size": 8}, {}),
        ({"text_config": None}, {"text_config": {"hidden_size": 8}}),
        ({"text_config": [1]}, {"text_config": {"hidden_size": 8}}),
    ],
)
def test_differences_that_shapes_will_show_or_that_do_not_matter_are_let_through(
    plan_of: Callable[..., RefinementPlan], configs: tuple[dict[str, Any], dict[str, Any]]
) -> None:
    assert plan_of(configs=configs).refined


def test_the_parts_of_a_fused_weight_are_tasks_on_bytes_of_their_own(
    plan_of: Callable[..., RefinementPlan],
) -> None:
    name = "gpt_neox.layers.0.attention.query_key_value.weight"
    made = {name: torch.zeros(24, 8, dtype=torch.bfloat16), "norm": torch.zeros(3)}
    config = {"model_type": "gpt_neox", "hidden_size": 8, "num_attention_heads": 2}
    plan = plan_of(made, made, (config, config), dtype="float32")
    assert [(t.part, t.rows, t.columns, t.index) for t in plan.refine_tasks] == [
        (part, 8, 8, None) for part in "kqv"
    ]
    assert {task.key for task in plan.refine_tasks} == {f"refine {name} [{x}]" for x in "qkv"}
    for which, width in (("base", 2), ("instruct", 2), ("target", 4)):
        places = [getattr(task, which) for task in plan.refine_tasks]
        assert {place.size_bytes for place in places} == {8 * 8 * width}
        pieces = sorted(piece for place in places for piece in place.pieces)
        assert [size for _, size in pieces] == [4 * 8 * width] * 6
        starts = [start - pieces[0][0] for start, _ in pieces]
        assert starts == [number * 4 * 8 * width for number in range(6)]
    assert plan.split_parts == {"attention.query_key_value": ("q", "k", "v")}
    assert plan.left_whole == {}


def test_names_that_are_not_recognised_are_listed_as_patterns(
    plan_of: Callable[..., RefinementPlan],
) -> None:
    odd = {
        **{f"model.layers.{n}.self_attn.indexer.wk.weight": (4, 8) for n in range(12)},
        "model.mystery2.weight": (4, 8),
    }
    made = {name: torch.zeros(shape, dtype=torch.bfloat16) for name, shape in odd.items()}
    plan = plan_of({**ordinary(), **made}, {**ordinary(), **made})
    assert plan.unrecognised == {
        "model.layers.*.self_attn.indexer.wk.weight": 12,
        "model.mystery2.weight": 1,
    }
    assert plan.copy_reasons["name not recognised"] == 13
