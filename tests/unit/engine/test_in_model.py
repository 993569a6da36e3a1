"""A loaded model is refined weight by weight, or refused before anything of it is changed."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import timberkit
from timberkit.engine import in_model
from timberkit.errors import CheckpointError, PairMismatchError, SpectrumError, UsageError

KEY = "layers.{}.self_attn.{}_proj.weight"


class Attention(nn.Module):
    def __init__(self, generator: torch.Generator) -> None:
        super().__init__()
        for name in ("q", "k"):
            linear = nn.Linear(12, 8, bias=False, dtype=torch.bfloat16)
            linear.weight.data.normal_(generator=generator)
            self.add_module(f"{name}_proj", linear)


class Model(nn.Module):
    """Two layers, an embedding that is the head's weight, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.embed_tokens = nn.Embedding(20, 12)
        self.embed_tokens.weight.data.normal_(generator=generator)
        self.layers = nn.ModuleList(
            nn.ModuleDict({"self_attn": Attention(generator)}) for _ in range(2)
        )
        self.lm_head = nn.Linear(12, 20, bias=False)
        self.lm_head.weight = self.embed_tokens.weight
        self.register_buffer("mask", torch.arange(5))


@pytest.fixture
def pair() -> tuple[Model, Model]:
    """Base and Instruct."""
    base, instruct = Model(), Model()
    generator = torch.Generator().manual_seed(1)
    for parameter in instruct.parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        falling = 0.7 ** torch.arange(parameter.shape[1])  # so that there is a tail to change
        parameter.data.add_((noise * falling).to(parameter.dtype))
    return base, instruct


def values(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def differing(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> set[str]:
    return {name for name in first if not torch.equal(first[name], second[name])}


ALL = {KEY.format(layer, name) for layer in range(2) for name in "qk"}


@pytest.mark.parametrize("inplace", [False, True])
def test_weights_become_those_of_the_state_dict_and_all_else_stays(
    pair: tuple[Model, Model], inplace: bool
) -> None:
    base, instruct = pair
    instruct.layers[0]["self_attn"].q_proj.weight.requires_grad_(False)
    before, base_before = values(instruct), values(base)
    parameters = dict(instruct.named_parameters())
    expected = timberkit.refine_state_dicts(base_before, before, variants="timber:lam=0.4")
    found = timberkit.refine_model(instruct, base, variant="timber:lam=0.4", inplace=inplace)
    assert differing(values(found), expected["timber_lam0.4"]) == set()
    assert differing(values(found), before) == ALL
    assert (found is instruct) is inplace
    assert differing(values(instruct), before) == (ALL if inplace else set())
    assert differing(values(base), base_before) == set()
    for name, parameter in found.named_parameters():
        assert parameter.dtype == parameters[name].dtype
        assert parameter.requires_grad is parameters[name].requires_grad
        assert (parameter is parameters[name]) is inplace
    assert torch.equal(found.mask, torch.arange(5))


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("shared", ["parameter", "memory"])
def test_a_tied_weight_is_refined_once_and_stays_one_tensor(
    pair: tuple[Model, Model], shared: str, inplace: bool
) -> None:
    base, instruct = pair
    if shared == "memory":
        instruct.lm_head.weight = nn.Parameter(instruct.embed_tokens.weight.data)
    key = "embed_tokens.weight"
    (expected,) = timberkit.refine_state_dicts(
        {key: base.embed_tokens.weight}, {key: instruct.embed_tokens.weight}, families=["embedding"]
    ).values()
    found = timberkit.refine_model(instruct, base, families=["embedding", "head"], inplace=inplace)
    assert torch.equal(found.embed_tokens.weight, expected[key])
    assert found.lm_head.weight.data_ptr() == found.embed_tokens.weight.data_ptr()


def test_a_tied_weight_goes_by_the_name_that_is_saved(pair: tuple[Model, Model]) -> None:
    for model in pair:
        model.all_tied_weights_keys = {"embed_tokens.weight": "lm_head.weight"}
    found = timberkit.refine_model(pair[1], pair[0], families=["head"])
    tied = {"embed_tokens.weight", "lm_head.weight"}
    assert differing(values(found), values(pair[1])) == tied
    with pytest.raises(UsageError, match="no tensor is left to refine"):
        timberkit.refine_model(pair[1], pair[0], families=["embedding"])


def test_the_default_device_of_torch_does_not_matter(pair: tuple[Model, Model]) -> None:
    expected = values(timberkit.refine_model(pair[1], pair[0]))
    with torch.device("meta"):
        found = timberkit.refine_model(pair[1], pair[0])
    assert differing(values(found), expected) == set()


def test_selection_and_places_count(pair: tuple[Model, Model]) -> None:
    base, instruct = pair
    found = timberkit.refine_model(
        instruct, base, variant="within:modules=q_proj,of=merge:mu=0", layers="1"
    )
    assert differing(values(found), values(instruct)) == {KEY.format(1, "q")}
    assert torch.equal(values(found)[KEY.format(1, "q")], values(base)[KEY.format(1, "q")])


class DTensor(nn.Parameter):
    """Named as the sharded tensors of torch are."""


class Packed(nn.Parameter):
    """Named as nothing that is known."""


def spoil(model: Model, how: str) -> None:
    linear = model.layers[1]["self_attn"].k_proj
    match how:
        case "meta":
            linear.to("meta")
        case "integers":
            linear.weight = nn.Parameter(torch.zeros(8, 12, dtype=torch.int8), requires_grad=False)
        case "sharded":
            linear.weight = DTensor(linear.weight.data)
        case "deepspeed":
            linear.weight.ds_id = 3
        case "packed":
            linear.weight = Packed(linear.weight.data)


@pytest.mark.parametrize("side", ["Base", "Instruct"])
@pytest.mark.parametrize(
    ("how", "found", "remedy"),
    [
        ("meta", "on the meta device", "load the model without offloading"),
        ("integers", "dtype int8", "load the unquantised original"),
        ("sharded", r"sharded over processes \(DTensor\)", "gather it first"),
        ("deepspeed", r"sharded over processes \(a DeepSpeed parameter\)", "gather it first"),
        ("packed", "a Packed, expected a plain", "load the unquantised original"),
    ],
)
def test_a_parameter_without_its_plain_values_is_refused_by_name(
    pair: tuple[Model, Model], side: str, how: str, found: str, remedy: str
) -> None:
    spoil(pair[side == "Instruct"], how)
    message = rf"parameter '{KEY.format(1, 'k')}' \({side}\): .*{found}.*; {remedy}"
    with pytest.raises(CheckpointError, match=message):
        timberkit.refine_model(pair[1], pair[0], inplace=True)


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("config", {"quantization_config": {"quant_method": "gptq"}}, "quantised model gptq"),
        ("is_quantized", True, "quantised model, expected"),
        ("tp_size", 2, "split over processes"),
    ],
)
def test_a_model_that_is_quantised_or_split_is_refused(
    pair: tuple[Model, Model], name: str, value: Any, found: str
) -> None:
    setattr(pair[1], name, value)
    with pytest.raises(CheckpointError, match=f"'embed_tokens.weight'.*{found}"):
        timberkit.refine_model(pair[1], pair[0])


@pytest.mark.parametrize("side", ["Base", "Instruct"])
def test_what_cannot_be_refined_is_found_before_anything_is_changed(
    pair: tuple[Model, Model], side: str
) -> None:
    pair[side == "Instruct"].layers[1]["self_attn"].k_proj.weight.data[3, 4] = torch.nan
    before = values(pair[1])
    with pytest.raises(SpectrumError, match=rf"{KEY.format(1, 'k')}' \({side}\): found NaN"):
        timberkit.refine_model(pair[1], pair[0], inplace=True)
    assert differing(values(pair[1]), before) <= {KEY.format(1, "k")}  # NaN differs from itself
    found = timberkit.refine_model(pair[1], pair[0], exclude=["*.k_proj.*"], inplace=True)
    assert torch.isfinite(found.layers[1]["self_attn"].q_proj.weight).all()


def test_configurations_of_different_structure_are_no_pair(pair: tuple[Model, Model]) -> None:
    for model, size in zip(pair, (1, 2), strict=True):
        model.config = {"hidden_size": size}
    with pytest.raises(PairMismatchError, match="hidden_size is 1 in Base and 2 in Instruct"):
        timberkit.refine_model(pair[1], pair[0])


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("kind", [KeyboardInterrupt, MemoryError])
def test_an_edit_that_is_stopped_says_what_is_changed(
    pair: tuple[Model, Model], monkeypatch: pytest.MonkeyPatch, kind: Any, inplace: bool
) -> None:
    calls = []

    def stopping(*arguments: Any, **options: Any) -> Any:
        calls.append(arguments)
        if len(calls) == 3:
            raise kind
        return refine_tensor(*arguments, **options)

    refine_tensor = in_model.refine_tensor
    monkeypatch.setattr(in_model, "refine_tensor", stopping)
    before = values(pair[1])
    with pytest.raises(kind) as caught:
        timberkit.refine_model(pair[1], pair[0], inplace=inplace)
    first = [KEY.format(0, "q"), KEY.format(0, "k")]
    assert differing(values(pair[1]), before) == (set(first) if inplace else set())
    notes = getattr(caught.value, "__notes__", [])
    assert len(notes) == inplace
    assert all("2 parameters of Instruct are refined already" in note for note in notes)
    assert all(f": {', '.join(first)}; load Instruct again" in note for note in notes)


def test_a_device_takes_the_solves_or_is_refused(
    pair: tuple[Model, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UsageError, match="device tpu: expected cpu, cuda"):
        timberkit.refine_model(pair[1], pair[0], device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(UsageError, match="finds no CUDA device"):
            timberkit.refine_model(pair[1], pair[0], device="cuda")
    seen = []

    def noting(*arguments: Any, device: str, **options: Any) -> Any:
        seen.append(device)
        return refine_tensor(*arguments, **options)

    refine_tensor = in_model.refine_tensor
    monkeypatch.setattr(in_model, "refine_tensor", noting)
    monkeypatch.setattr(in_model, "check_device", lambda device: None)
    timberkit.refine_model(pair[1], pair[0], device="cuda:1")
    assert seen == ["cuda:1"] * 4


def saved_with(monkeypatch: pytest.MonkeyPatch, change: Any) -> None:
    """Let models be saved as ``change`` says of their tensors."""
    monkeypatch.setattr(in_model, "_saving", lambda model: change)


def test_a_parameter_is_refined_as_the_tensors_that_are_saved_of_it(
    pair: tuple[Model, Model], monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = KEY.format(0, "q"), KEY.format(0, "{}")

    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        if old not in tensors:
            return tensors
        rest = {name: tensor for name, tensor in tensors.items() if name != old}
        first, second = tensors[old].chunk(2)
        return rest | {new.format("o"): first.T.contiguous(), new.format("v"): second.contiguous()}

    saved_with(monkeypatch, change)
    files = [change(values(model)) for model in pair]
    exclude = ["*.v_proj.*"]
    (expected,) = timberkit.refine_state_dicts(
        *files, variants="noise:of=merge:mu=0.5", exclude=exclude
    ).values()
    found = timberkit.refine_model(
        pair[1], pair[0], variant="noise:of=merge:mu=0.5", exclude=exclude
    )
    assert differing(change(values(found)), expected) == set()
    assert torch.equal(values(found)[old][4:], values(pair[1])[old][4:])
    assert differing(values(found), values(pair[1])) == ALL


@pytest.mark.parametrize("how", ["together", "otherwise"])
def test_a_parameter_that_is_not_saved_by_itself_is_refused_unless_left_out(
    pair: tuple[Model, Model], monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    q, k = (KEY.format(1, name) for name in "qk")

    def change(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        changed = dict(tensors)
        if how == "together" and q in changed:
            changed["qk.weight"] = torch.cat([changed.pop(q), changed.pop(k)])
        elif how == "otherwise" and q in changed:
            changed[q] = changed[q] * 2
        return changed

    saved_with(monkeypatch, change)
    before = values(pair[1])
    with pytest.raises(CheckpointError, match=rf"'{q}' \(Base\): saved (together )?with other"):
        timberkit.refine_model(pair[1], pair[0], inplace=True)
    assert differing(values(pair[1]), before) == set()
    found = timberkit.refine_model(pair[1], pair[0], exclude=[q, k])
    assert differing(values(found), values(pair[1])) == ALL - {q, k}


def test_a_model_may_be_refined_with_itself(pair: tuple[Model, Model]) -> None:
    before = values(pair[1])
    found = timberkit.refine_model(pair[1], copy.deepcopy(pair[1]), inplace=True)
    assert differing(values(found), before) == set()
