"""Sapling: a small real Base and Instruct pair, its puzzle, and its exact evaluator.

Two Llama models with 462,080 parameters each, trained from scratch on Countdown puzzles, shipped
in ``data/`` as ordinary Hugging Face folders. Instruct was post-trained from Base and, as with
large models, is better at one attempt and worse at many. Because a puzzle has finitely many
correct answers, its success probability is known exactly; so everything that samples, grades or
counts can be tested against the truth.

==================  ===========================================================================
``puzzle``          problems, the held-out split, all correct answers, the checker
``vocabulary``      147 words, the chat template
``exact``           ``success_probabilities``: the sum over all correct answers
``trie``            how the evaluator shares prefixes
``pair``            paths of the shipped folders and problems
``models``          loading a Sapling model from a folder
``training``        how the pair was made: ``python -m timberkit.sapling.training --output DIR``
==================  ===========================================================================

Importing this package loads neither torch nor transformers.
"""

from timberkit.sapling.exact import (
    LONGEST_ANSWER_TOKENS,
    PreparedProblems,
    success_probabilities,
)
from timberkit.sapling.models import load_model
from timberkit.sapling.pair import SPLITS, base_folder, instruct_folder, load_problems
from timberkit.sapling.puzzle import (
    Problem,
    correct_answers,
    is_correct,
    is_held_out,
    problem_pool,
)

__all__ = [
    "LONGEST_ANSWER_TOKENS",
    "SPLITS",
    "PreparedProblems",
    "Problem",
    "base_folder",
    "correct_answers",
    "instruct_folder",
    "is_correct",
    "is_held_out",
    "load_model",
    "load_problems",
    "problem_pool",
    "success_probabilities",
]
