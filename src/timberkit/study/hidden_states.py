"""Diff-eRank: how many directions the hidden states of Base and of Instruct use, layer by layer.

For one text with the states ``z_t`` (tokens x width) after a layer, centred and each row of length
one, ``x_t = (z_t - mean z) / |z_t - mean z|``, the eigenvalues of their covariance give

    H = -sum_i p_i ln p_i,   p_i = eigenvalue_i / sum of eigenvalues,     eRank = exp(mean H)

with the mean over texts. Every text is centred by itself, so its effective rank stays below its
number of tokens. Source: Wei et al., arXiv 2401.17139, and the authors' code for sets of texts.

Models are loaded by transformers (extra ``eval``) from local files, from safetensors only; code
that comes with a checkpoint is never run.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from timberkit.config import AnalyzeRecipe
from timberkit.engine.sources import OpenPair
from timberkit.errors import (
    InputError,
    PairMismatchError,
    SpectrumError,
    UsageError,
)
from timberkit.evaluation.loading import load_tokenizer, transformers_quietly
from timberkit.measurements import HiddenStateMeasurement
from timberkit.spectral.rank import effective_rank
from timberkit.study.texts import puzzle_texts, read_texts, speaks_sapling

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

LONGEST_TEXT_TOKENS = 2048
"""Longer texts are cut there, as in the authors' code."""

# What transformers raises for a folder it cannot load: it has no error of its own.
_WANTED = "hidden states need a model and tokenizer that it knows without code of their own"


@dataclass(frozen=True, slots=True)
class TextStudy:
    """Texts as token ids, and the two folders whose models will read them."""

    folders: tuple[Path, Path]
    ids: tuple[tuple[int, ...], ...]
    sha256: str

    @property
    def facts(self) -> dict[str, object]:
        """How many texts and tokens, and the hash of the texts."""
        return {
            "texts": len(self.ids),
            "text_tokens": sum(map(len, self.ids)),
            "texts_sha256": self.sha256,
        }

    def measure(self, on_text: Callable[[int, int], None]) -> tuple[HiddenStateMeasurement, ...]:
        """Let both models read all texts, one model and one text at a time.

        Returns one measurement for the embedding and one for each layer; the last stands after the
        final norm, as transformers gives it. Raises InputError for a model that cannot be loaded,
        PairMismatchError for different numbers of layers, SpectrumError for NaN or Inf. Cost: a
        forward pass over every text with each model; memory 4 bytes a parameter of one model.
        """
        count = len(self.ids)
        base_folder, instruct_folder = self.folders
        means = (
            _mean_entropies(base_folder, self.ids, lambda done: on_text(done, 2 * count)),
            _mean_entropies(
                instruct_folder, self.ids, lambda done: on_text(count + done, 2 * count)
            ),
        )
        if len(means[0]) != len(means[1]):
            raise PairMismatchError(
                f"hidden states: {len(means[0]) - 1} layers in Base, {len(means[1]) - 1} in"
                " Instruct, expected the same; these are not a Base and its Instruct model"
            )
        tokens = sum(map(len, self.ids))
        ranks = ([math.exp(entropy) for entropy in found] for found in means)
        return tuple(
            HiddenStateMeasurement(layer, base, instruct, base - instruct, tokens)
            for layer, (base, instruct) in enumerate(zip(*ranks, strict=True))
        )


def prepare_texts(pair: OpenPair, recipe: AnalyzeRecipe) -> TextStudy:
    """Read the texts of a recipe and turn them into tokens, the same for both models.

    Without ``prompts`` the pair must be of Sapling's vocabulary; its held-out puzzles with one
    correct answer each are the texts then.

    Raises MissingExtraError without transformers; UsageError without texts; InputError for texts or
    tokenizers that cannot be read and a text of fewer than two tokens; PairMismatchError where
    the two tokenizers disagree.
    """
    if recipe.prompts is not None:
        texts = read_texts(Path(recipe.prompts).expanduser())
    elif speaks_sapling(pair.instruct.folder):
        texts = puzzle_texts()
    else:
        raise UsageError(
            "hidden states: no texts named; add --prompts FILE (one text a line, or JSON lines with"
            " a field 'text' or 'prompt')"
        )
    folders = pair.base.folder, pair.instruct.folder
    tokenizers = [load_tokenizer(folder, wanted=_WANTED) for folder in folders]
    longest = min(LONGEST_TEXT_TOKENS, *map(_longest, (pair.base.config, pair.instruct.config)))
    ids = []
    for number, text in enumerate(texts, start=1):
        base, instruct = (_tokens(tokenizer, text)[:longest] for tokenizer in tokenizers)
        if base != instruct:
            raise PairMismatchError(
                f"text {number}: the tokenizers of Base and Instruct read it differently, so that"
                " their hidden states cannot be compared; leave the text out, or use a pair with"
                " one vocabulary"
            )
        if len(base) < 2:
            raise InputError(
                f"text {number}: found {len(base)} tokens, expected at least 2; leave it out"
            )
        ids.append(base)
    digest = hashlib.sha256("\0".join(texts).encode()).hexdigest()
    return TextStudy(folders, tuple(ids), digest)


def state_entropy(states: torch.Tensor) -> float:
    """Entropy H of the spectrum of the covariance of centred rows of length one.

    Args:
        states: (tokens, width), finite; in float64 from here on.

    Returns:
        H in [0, ln(tokens - 1)]; 0.0 where all rows are equal.

    Raises:
        SpectrumError: NaN or Inf.

    Cost: ``tokens * width * min(tokens, width)`` flops and the eigenvalues of the smaller Gram
    matrix.
    """
    rows = states.to(torch.float64)
    if not bool(torch.isfinite(rows).all()):
        raise SpectrumError("found NaN or Inf, expected finite hidden states")
    centred = rows - rows.mean(dim=0)
    lengths = torch.linalg.vector_norm(centred, dim=1, keepdim=True)
    # Rows that differ from the mean by rounding alone have no direction.
    floor = 1e-12 * float(torch.linalg.vector_norm(rows, dim=1).max())
    unit = torch.where(lengths > floor, centred / lengths.clamp(min=1e-300), 0.0)
    gram = unit @ unit.T if unit.shape[0] <= unit.shape[1] else unit.T @ unit
    found = np.maximum(np.linalg.eigvalsh(gram.numpy()), 0.0)
    rank = effective_rank(found)
    return math.log(rank) if rank > 0 else 0.0


def _mean_entropies(
    folder: Path, texts: Sequence[Sequence[int]], on_text: Callable[[int], None]
) -> list[float]:
    """Mean of H over the texts, for the embedding and after each layer."""
    model = _model(folder)
    embedding: Any = model.get_input_embeddings()
    most = int(embedding.weight.shape[0])
    entropies = []
    for number, ids in enumerate(texts, start=1):
        if max(ids) >= most:
            raise InputError(
                f"{folder.name}: text {number} has the token {max(ids)}, the model knows {most};"
                " model and tokenizer do not belong together"
            )
        with torch.inference_mode():
            output = model(torch.tensor([ids]), output_hidden_states=True, use_cache=False)
        states = getattr(output, "hidden_states", None)
        if not states:
            raise InputError(
                f"{folder.name}: the model gives no hidden states for text; hidden states are"
                " measured of language models only"
            )
        entropies.append([_entropy(folder, layer, state[0]) for layer, state in enumerate(states)])
        on_text(number)
    return [math.fsum(column) / len(column) for column in zip(*entropies, strict=True)]


def _entropy(folder: Path, layer: int, state: torch.Tensor) -> float:
    try:
        return state_entropy(state)
    except SpectrumError as error:
        raise SpectrumError(f"{folder.name}: hidden states after layer {layer}: {error}") from None


def _model(folder: Path) -> PreTrainedModel:
    with transformers_quietly(folder, _WANTED) as transformers:
        model: PreTrainedModel = transformers.AutoModel.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
        )
    model.train(mode=False)
    return model


def _tokens(tokenizer: PreTrainedTokenizerBase, text: str) -> tuple[int, ...]:
    return tuple(tokenizer(text)["input_ids"])


def _longest(config: Any) -> int:
    """Positions that a model has, as its config says; the usual bound where it says nothing."""
    found = config.get("max_position_embeddings")
    return found if type(found) is int and found >= 2 else LONGEST_TEXT_TOKENS
