"""Models and tokenizers of transformers, loaded from a folder: quietly, and without their code.

From safetensors alone; code that comes with a checkpoint is never run, and nothing is fetched. A
weight that the files lack is an error here: transformers would go on with random numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timberkit.errors import CheckpointError, InputError, MissingExtraError, UsageError
from timberkit.sapling.models import quiet

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# What transformers raises for a folder it cannot load: it has no error of its own.
_FAILURES = (OSError, ValueError, TypeError, LookupError, AttributeError, RuntimeError, ImportError)
_SHOWN = 3
LANGUAGE_MODEL = (
    "expected a language model that it knows without code of its own; else serve the model, and"
    " give the server's address"
)
"""What ``transformers_quietly`` wants unless told otherwise."""

SMALL = 10_000_000
"""So small a model is computed in float64 on the CPU: then answers do not depend on the batch."""


def load_model(folder: Path, *, dtype: str | None = None, device: str = "cpu") -> PreTrainedModel:
    """A causal language model in evaluation mode.

    ``dtype``: ``float64``, ``float32``, ``bfloat16``, ``float16``, ``auto`` for as stored; None:
    ``auto`` on a GPU, float32 on the CPU, and float64 there below ``SMALL`` parameters. Raises
    UsageError for a device that is not there, InputError for a folder that transformers cannot load
    without code of its own, CheckpointError where weights are missing, MissingExtraError without
    transformers. Cost: the bytes of the weights, once.
    """
    import torch

    where = _device(device)
    chosen = dtype or ("float32" if where.type == "cpu" else "auto")
    with transformers_quietly(folder) as transformers:
        model, report = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=chosen if chosen == "auto" else getattr(torch, chosen),
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
        missing = sorted({*report["missing_keys"], *map(str, report["mismatched_keys"])})
        if not missing:
            model = model.to(where)
            if dtype is None and where.type == "cpu" and model.num_parameters() < SMALL:
                model = model.double()
    if missing:
        names = ", ".join(missing[:_SHOWN]) + (", …" if len(missing) > _SHOWN else "")
        raise CheckpointError(
            f"{folder.name}: {len(missing)} weights of {type(model).__name__} are not in its files,"
            f" or have another shape ({names}); the checkpoint is incomplete, or its config.json"
            " is that of another model"
        )
    model.train(mode=False)
    found: PreTrainedModel = model
    return found


def load_tokenizer(folder: Path, *, wanted: str = LANGUAGE_MODEL) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder, its chat template included; errors as ``load_model``."""
    with transformers_quietly(folder, wanted) as transformers:
        tokenizer: PreTrainedTokenizerBase = transformers.AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    return tokenizer


@contextmanager
def transformers_quietly(folder: Path, wanted: str = LANGUAGE_MODEL) -> Iterator[Any]:
    """The library, quiet; what it raises for a folder it cannot load becomes one InputError.

    ``wanted`` ends its message: what was expected, and what to do.
    """
    try:
        import transformers
        from transformers.utils import logging
    except ModuleNotFoundError:
        raise MissingExtraError("transformers", extra="eval") from None
    shown = logging.get_verbosity()
    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        with quiet():
            yield transformers
    except _FAILURES as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{folder.name}: transformers {transformers.__version__} cannot load it:"
            f" {reason[:300]}; {wanted}"
        ) from None
    finally:
        logging.set_verbosity(shown)


def _device(name: str) -> Any:
    """A device that is there."""
    import torch

    try:
        device = torch.device(name)
    except RuntimeError:
        device = None
    if device is None or device.type not in ("cpu", "cuda"):
        raise UsageError(f"device {name!r}: unknown; write cpu, cuda or cuda:N")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            raise UsageError(
                f"device {name!r}: this torch finds {count} CUDA devices; leave --device out, or"
                " install a torch with CUDA"
            )
    return device
