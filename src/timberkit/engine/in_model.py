"""Refine a model that is loaded already: Instruct's weights, in place or in a copy.

    model = refine_model(instruct, base, variant="timber:lam=0.2")

The values are those that ``refine`` writes for what ``save_pretrained`` saves of both models. So
weights go by the names and shapes that they have in files: a transformers model may hold all
experts of a layer as one parameter and save each projection of each by itself, and it is those that
are refined, selected and named.

Not here: models whose weights are sharded, quantised, offloaded or on the meta device; these are
refused, and their folders can be refined.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NoReturn, TypeAlias, TypeVar

import torch

from timberkit.checkpoint.layout import TensorEntry
from timberkit.config import DEFAULT_FAMILIES, AnyVariant, build_selection, parse_variants
from timberkit.engine.execute import one_thread
from timberkit.engine.in_memory import PlannedTensors, entry_of, plan_tensors, refine_tensor
from timberkit.engine.plan import NO_CONFIG, compare_configs
from timberkit.engine.run import check_device
from timberkit.errors import CheckpointError, SpectrumError, UsageError
from timberkit.placing import check_places

Tensors: TypeAlias = dict[str, torch.Tensor]
AnyModel = TypeVar("AnyModel", bound=torch.nn.Module)
_FOLDERS = "or refine the folders of both models, with timberkit.refine"
_FLOATING = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def refine_model(
    instruct_model: AnyModel,
    base_model: torch.nn.Module,
    *,
    variant: str | AnyVariant = "timber:lam=0.2",
    families: Sequence[str] = DEFAULT_FAMILIES,
    layers: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    fused: str = "split",
    inplace: bool = False,
    device: str | None = None,
) -> AnyModel:
    """Refine the weights of a loaded Instruct model with those of its Base.

    Bit for bit what ``refine`` with the same options writes for the checkpoints that
    ``save_pretrained`` makes of both, dtype and ``device`` being equal.

    Args:
        instruct_model, base_model: of transformers, or any ``torch.nn.Module`` whose parameters
            are named alike; each parameter on any device. Base is only read.
        variant, families, layers, include, exclude, fused: as for ``refine``; names are those of
            the saved files, and ``model.config`` says how fused weights are stored.
        inplace: change ``instruct_model`` itself instead of a deep copy of it.
        device: that takes the eigen-solves, as for ``refine``: the CPU when None, wherever the
            models are. Weights go to the CPU and back, one parameter at a time.

    Returns:
        ``instruct_model`` when ``inplace``, else its copy. Dtypes, devices, ``requires_grad``,
        buffers and what is not refined are as they were; a tied weight stays one tensor.

    Raises:
        As ``select_tensors`` and ``check_places``; PairMismatchError for configurations of
        different structure; CheckpointError for a parameter without its whole values in a plain
        float tensor; SpectrumError for NaN or Inf; UsageError for options, or a device that is not
        there: all of these before anything is changed. Whatever stops an edit in place later, such
        as Ctrl-C or too little memory, carries a note (``__notes__``, shown with the traceback) of
        which parameters are changed: results are not held back, which would take a second model.

    Cost: ``refine_matrix`` for each selected weight, with one thread; memory for a few copies of
    the largest parameter, 8 bytes an element besides where it is stored otherwise than it is held,
    and for a second model unless ``inplace``.
    """
    selection = build_selection(families, layers, include, exclude, fused)
    chosen = parse_variants([variant])
    solver = _checked_device(device)
    base, instruct = _Weights(base_model, "Base"), _Weights(instruct_model, "Instruct")
    compare_configs(base.config, instruct.config)
    planned = plan_tensors(base.entries, instruct.entries, selection, instruct.config)
    check_places(chosen, planned.positions)
    for weights in (base, instruct):
        weights.refuse_unclear(planned.places)
        weights.refuse_not_finite(planned.places)
    changed: list[str] = []
    if inplace:
        with _telling(changed):
            _edit(instruct, base, planned, chosen, solver, changed)
        return instruct_model
    copied = instruct.copy_model(instruct_model)
    _edit(_Weights(copied, "Instruct"), base, planned, chosen, solver, changed)
    return copied


def _edit(
    instruct: _Weights,
    base: _Weights,
    planned: PlannedTensors,
    variants: Sequence[AnyVariant],
    device: str,
    changed: list[str],
) -> None:
    """Refine the parameters one after the other, each written in one step and noted before it."""
    chosen = {
        home: [name for name in names if name in planned.places]
        for home, names in instruct.homes.items()
    }
    chosen = {home: names for home, names in chosen.items() if names}
    with one_thread(), torch.no_grad():
        for home, names in chosen.items():
            refined = {}
            for name in names:
                pair = (base.read(name), instruct.read(name))
                (refined[name],) = refine_tensor(
                    pair, planned.places[name], variants, device=device
                )
            result = instruct.put_together(home, refined)
            changed.append(home)
            instruct.parameter(home).copy_(result)


@contextmanager
def _telling(changed: Sequence[str]) -> Iterator[None]:
    """Note on whatever passes, Ctrl-C too, which parameters are changed already."""
    try:
        yield
    except BaseException as error:
        if changed:
            error.add_note(
                f"{len(changed)} parameters of Instruct are refined already, the others are not:"
                f" {', '.join(changed)}; load Instruct again before refining or using it"
            )
        raise


def _checked_device(device: str | None) -> str:
    name = "cpu" if device is None else str(device)
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise UsageError(f"device {name}: expected cpu, cuda or cuda:N")
    check_device(name)
    return name


class _Weights:
    """The parameters of a model under the names and in the shapes that files have them.

    ``homes`` leads from a parameter to the names of what is saved of it, ``entries`` has these as
    tensors of a file. Nothing is read before ``read``, and one parameter is held at a time.
    """

    def __init__(self, model: torch.nn.Module, which: str) -> None:
        self._which = which
        self.config = _config_of(model)
        _refuse_model(model, self.config, which)
        for name, parameter in model.named_parameters():
            _refuse_parameter(name, parameter, which)
        self._parameters = _distinct_parameters(model)
        self._saved = _saving(model)
        self.homes: dict[str, tuple[str, ...]] = {}
        self.entries: dict[str, TensorEntry] = {}
        self._home_of: dict[str, str] = {}
        self._as_held: set[str] = set()
        self._unclear: set[str] = set()
        self._lay_out()
        self._open: tuple[str, torch.Tensor, Tensors] | None = None

    def parameter(self, home: str) -> torch.nn.Parameter:
        """The parameter of this name."""
        return self._parameters[home][0]

    def read(self, name: str) -> torch.Tensor:
        """The values of a tensor as it would be saved, on the CPU."""
        flat, indices = self._opened(self._home_of[name])
        shape = self.entries[name].shape
        return (flat[indices[name].reshape(-1)] if name in indices else flat).reshape(shape)

    def put_together(self, home: str, tensors: Tensors) -> torch.Tensor:
        """A parameter's values with these tensors, as they would be saved, in their places."""
        flat, indices = self._opened(home)
        shape = self.parameter(home).shape
        if not indices:
            (whole,) = tensors.values()
            return whole.reshape(shape)
        flat = flat.clone()
        for name, tensor in tensors.items():
            flat[indices[name].reshape(-1)] = tensor.reshape(-1)
        self._open = None
        return flat.reshape(shape)

    def copy_model(self, model: AnyModel) -> AnyModel:
        """A deep copy in which parameters that share their memory still do."""
        memo: dict[int, Any] = {}
        for same in self._parameters.values():
            if len(same) > 1:
                one = copy.deepcopy(same[0], memo)
                memo.update({id(parameter): one for parameter in same})
        return copy.deepcopy(model, memo)

    def refuse_unclear(self, names: Mapping[str, object]) -> None:
        """Raise CheckpointError for what is saved with other parameters, or with other values."""
        for home in dict.fromkeys(self._home_of[name] for name in names):
            if home in self._unclear:
                _refuse(home, self._which, "saved together with others, expected it to be saved by"
                        " itself", "leave it out with exclude")  # fmt: skip
            if home not in self._as_held:
                self._opened(home)

    def refuse_not_finite(self, names: Mapping[str, object]) -> None:
        """Raise SpectrumError for a chosen tensor with NaN or Inf."""
        for home, saved in self.homes.items():
            chosen = [name for name in saved if name in names]
            if not chosen or bool(torch.isfinite(self.parameter(home).detach()).all()):
                continue
            for name in chosen:
                if not bool(torch.isfinite(self.read(name)).all()):
                    raise SpectrumError(
                        f"tensor {name!r} ({self._which}): found NaN or Inf, expected finite"
                        " numbers; the weights are damaged, or the training that made them"
                        " diverged: load them again, or leave the tensor out with exclude; nothing"
                        " was changed"
                    )

    def _lay_out(self) -> None:
        """Ask, without values, what is saved of each parameter, and where that is not clear."""
        bare = {name: torch.empty(same[0].shape, dtype=same[0].dtype, device="meta")
                for name, same in self._parameters.items()}  # fmt: skip
        together = self._saved(bare)
        for home, tensor in bare.items():
            alone = _saved_alone(self._saved, home, tensor)
            if any(name not in together or together[name].shape != piece.shape
                   for name, piece in alone.items()):  # fmt: skip
                alone = {}
            if not alone:
                alone = {home: tensor}
                self._unclear.add(home)
            if len(alone) == 1 and tensor is next(iter(alone.values())):
                self._as_held.add(home)
            self.homes[home] = tuple(alone)
            self._home_of |= dict.fromkeys(alone, home)
            self.entries |= {name: entry_of(name, piece) for name, piece in alone.items()}

    def _opened(self, home: str) -> tuple[torch.Tensor, Tensors]:
        if self._open is None or self._open[0] != home:
            self._open = None  # before the next one is held
            parameter = self.parameter(home).detach()
            indices = {} if home in self._as_held else self._indices(home, parameter)
            self._open = (home, parameter.to("cpu").reshape(-1), indices)
        return self._open[1:]

    def _indices(self, home: str, parameter: torch.Tensor) -> Tensors:
        """Which elements of a parameter each of its saved tensors holds, in order.

        The library says so itself: it is given numbers in place of the elements.
        """
        size = parameter.numel()
        width = torch.int32 if size < 2**31 else torch.int64
        numbers = torch.arange(size, dtype=width, device="cpu").reshape(parameter.shape)
        found = self._saved({home: numbers})
        held = torch.zeros(size, dtype=torch.bool, device="cpu")
        for index in found.values():
            if index.dtype == width and index.numel():
                held[index.reshape(-1).clamp(0, size - 1)] = True
        if sum(index.numel() for index in found.values()) != size or not bool(held.all()):
            _refuse(home, self._which, "saved with other values than it holds, expected the same",
                    "leave it out with exclude")  # fmt: skip
        return found


def _saved_alone(saved: Callable[[Tensors], Tensors], home: str, tensor: torch.Tensor) -> Tensors:
    """What is saved of one parameter; nothing where it cannot be saved by itself."""
    try:
        return saved({home: tensor})
    # Whatever a conversion of the library does that misses the other parameters.
    except Exception:
        return {}


def _saving(model: torch.nn.Module) -> Callable[[Tensors], Tensors]:
    """From parameters by their names to tensors as ``save_pretrained`` has them."""
    library = sys.modules.get("transformers")  # whoever has a model of it has imported it
    if library is None or not isinstance(model, library.PreTrainedModel):
        return lambda tensors: tensors
    try:
        from transformers.core_model_loading import revert_weight_conversion
    except ImportError:  # before version 5, which saved parameters as it held them
        return lambda tensors: tensors
    return lambda tensors: revert_weight_conversion(model, tensors)


def _distinct_parameters(model: torch.nn.Module) -> dict[str, list[torch.nn.Parameter]]:
    """Parameters by name; those that are one tensor together, under the name that is saved."""
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    found: dict[Any, list[tuple[str, torch.nn.Parameter]]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        found.setdefault(_memory_of(parameter), []).append((name, parameter))
    return {
        next((name for name, _ in same if name not in tied), same[0][0]): [one for _, one in same]
        for same in found.values()
    }


def _memory_of(parameter: torch.nn.Parameter) -> Any:
    if parameter.numel() == 0:
        return id(parameter)
    return parameter.device, parameter.data_ptr(), tuple(parameter.shape), parameter.stride()


def _config_of(model: torch.nn.Module) -> Mapping[str, Any]:
    config = getattr(model, "config", None)
    if isinstance(config, Mapping):
        return config
    describe = getattr(config, "to_dict", None)
    described = NO_CONFIG if describe is None else describe()
    return described if isinstance(described, Mapping) else NO_CONFIG


def _refuse_model(model: torch.nn.Module, config: Mapping[str, Any], which: str) -> None:
    """What shows on the whole model only; the error names its first parameter all the same."""
    first = next((name for name, _ in model.named_parameters()), "")
    settings = config.get("quantization_config")
    if settings or getattr(model, "is_quantized", False):
        method = settings.get("quant_method", "") if isinstance(settings, Mapping) else ""
        _refuse(first, which, f"of a quantised model {str(method)[:40]}".rstrip() + ", expected"
                " plain floats", "load the unquantised original")  # fmt: skip
    if (getattr(model, "tp_size", None) or 1) > 1:
        _refuse(first, which, "of a model that is split over processes, expected a whole one",
                "load it without tp_plan")  # fmt: skip


def _refuse_parameter(name: str, parameter: torch.nn.Parameter, which: str) -> None:
    kinds = {type(parameter).__name__, type(parameter.data).__name__} - {"Parameter", "Tensor"}
    if "DTensor" in kinds or "FlatParameter" in kinds or hasattr(parameter, "ds_id"):
        kind = next(iter(kinds), "a DeepSpeed parameter")
        _refuse(name, which, f"sharded over processes ({kind}), expected all of its values in one"
                " tensor", "gather it first")  # fmt: skip
    if kinds:
        _refuse(name, which, f"a {min(kinds)}, expected a plain torch.nn.Parameter; it is"
                " quantised, or not made yet", "load the unquantised original")  # fmt: skip
    if parameter.device.type == "meta":
        _refuse(name, which, "on the meta device, expected its values; it is offloaded, or was"
                " never loaded", "load the model without offloading")  # fmt: skip
    if parameter.dtype not in _FLOATING:
        dtype = str(parameter.dtype).removeprefix("torch.")
        _refuse(name, which, f"of dtype {dtype}, expected bfloat16, float16, float32 or float64; it"
                " is quantised or packed", "load the unquantised original")  # fmt: skip


def _refuse(name: str, which: str, found: str, remedy: str) -> NoReturn:
    raise CheckpointError(f"parameter {name!r} ({which}): {found}; {remedy}, {_FOLDERS}")
