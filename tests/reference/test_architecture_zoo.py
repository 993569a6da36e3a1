"""Every tensor of many architectures is taken for what it is in the model that transformers builds.

The checkpoints are those that transformers itself saves; what a tensor is comes from its module.
"""

from __future__ import annotations

import pytest
from architecture_zoo import DOCUMENT, ZOO, Saved, is_vision, saved_tensors, table, treatment

from timberkit.checkpoint.families import classify, is_selected
from timberkit.config import Selection

LINEAR = {"attention", "ffn", "expert", "ssm", "router", "head"}
STATE = {"A_log", "D", "dt_bias"}


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Saved | None]]:
    """Each architecture's tensors, and the module that each is part of."""
    return {name: saved_tensors(name, tmp_path_factory.mktemp("zoo")) for name in ZOO}


@pytest.fixture(params=ZOO)
def saved(
    zoo: dict[str, dict[str, Saved | None]], request: pytest.FixtureRequest
) -> dict[str, Saved]:
    """The tensors of one architecture that are parameters; towers for pictures left out."""
    return {
        name: tensor
        for name, tensor in zoo[request.param].items()
        if tensor is not None and classify(name, tensor.shape).kind != "vision"
    }


def kinds(saved: dict[str, Saved], part: str) -> dict[str, str]:
    return {
        name: classify(name, tensor.shape).kind
        for name, tensor in saved.items()
        if tensor.part == part
    }


def test_nothing_that_transformers_builds_has_a_name_that_is_not_recognised(
    saved: dict[str, Saved],
) -> None:
    assert [n for n, t in saved.items() if classify(n, t.shape).kind == "unknown"] == []


def test_every_weight_of_a_linear_module_is_recognised_as_one(saved: dict[str, Saved]) -> None:
    found = kinds(saved, "linear")
    weights = {name for name in found if name.endswith(".weight")}
    assert weights
    assert {found[name] for name in weights} <= LINEAR
    assert {found[name] for name in found.keys() - weights} <= {"bias"}


def test_weights_of_experts_are_experts_and_of_routers_routers(saved: dict[str, Saved]) -> None:
    for part, kind in (("experts", "expert"), ("router", "router")):
        found = kinds(saved, part)
        weights = {name for name in found if "bias" not in name}
        assert {found[name] for name in weights} <= {kind}
        assert {found[name] for name in found.keys() - weights} <= {"bias"}


def test_what_is_no_linear_weight_is_never_taken_for_one(saved: dict[str, Saved]) -> None:
    expected = {
        "embedding": {"embedding"},
        "norm": {"norm"},
        "convolution": {"convolution", "bias"},
        "other": {"state", "bias"},
    }
    for part, allowed in expected.items():
        assert set(kinds(saved, part).values()) <= allowed


def test_state_matrices_are_states(saved: dict[str, Saved]) -> None:
    states = {name for name in saved if name.rsplit(".", 1)[-1] in STATE}
    assert {name for name, tensor in saved.items() if kind_of(name, tensor) == "state"} == states


def test_by_default_all_linear_weights_but_routers_and_the_head_are_refined(
    saved: dict[str, Saved],
) -> None:
    refined = {
        name
        for name, tensor in saved.items()
        if is_selected(classify(name, tensor.shape), Selection(), name, tensor.shape)[0]
    }
    linear = {
        name
        for name, tensor in saved.items()
        if tensor.part in ("linear", "experts") and len(tensor.shape) > 1 and "bias" not in name
    }
    assert refined <= linear
    assert {kind_of(name, saved[name]) for name in linear - refined} <= {"router", "head"}


@pytest.mark.parametrize("architecture", [name for name in ZOO if is_vision(name)])
def test_towers_for_pictures_are_told_from_the_language_model(
    architecture: str, zoo: dict[str, dict[str, Saved | None]]
) -> None:
    for name, tensor in zoo[architecture].items():
        assert tensor is not None
        beside = not tensor.parameter.startswith(("model.language_model", "lm_head"))
        assert (classify(name, tensor.shape).kind == "vision") == beside, name


def test_the_document_says_what_is_tested(zoo: dict[str, dict[str, Saved | None]]) -> None:
    found = table({name: treatment(saved) for name, saved in zoo.items()})
    assert found in DOCUMENT.read_text("utf-8"), "run python tests/support/architecture_zoo.py"


def kind_of(name: str, tensor: Saved) -> str:
    return classify(name, tensor.shape).kind
