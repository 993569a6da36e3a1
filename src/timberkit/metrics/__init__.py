"""Pure statistics on counts, answers and probabilities: NumPy and SciPy, no torch or files.

==================  ===========================================================================
``counts``          (n, c) -> Mean@k, Pass@k, G-Pass@k, Cover@tau, one value a problem
``answers``         majority vote, distinct answers, entropy, truncation and format failures
``intervals``       intervals of one model, and the words an interval allows
``rollout_noise``   the interval on a fixed set of problems
``paired``          two models on the same problems: intervals and p-values over several k
``crossing``        the k from which one model passes another
``frontier``        how far a model lies above a line of others, such as the merges of a pair
``power``           how many rollouts or problems would tell two models apart
``beta_binomial``   a two-parameter model of a Pass@k curve
``bands``           whether counts agree with known probabilities
``distributions``   binomial, hypergeometric, sums of binomials
``macro``           means over several benchmarks
``exact``           Pass@k where the probabilities are known
``summary``         means and verdicts of measured weights
==================  ===========================================================================
"""

from timberkit.metrics.answers import (
    answer_entropy,
    distinct_answers,
    format_failure_rate,
    majority_vote,
    truncation_rate,
)
from timberkit.metrics.bands import BinomialBand, binomial_band
from timberkit.metrics.beta_binomial import BetaBinomial, fit_counts, fit_curve
from timberkit.metrics.counts import cover_at_tau, g_pass_at_k, mean_at_k, pass_at_k
from timberkit.metrics.crossing import Crossing, crossing_point
from timberkit.metrics.exact import exact_pass_at_k, pass_curve
from timberkit.metrics.frontier import FrontierGap, frontier_gap
from timberkit.metrics.intervals import (
    Interval,
    in_words,
    mean_interval,
    pass_intervals,
)
from timberkit.metrics.paired import PairedDifference, paired_difference, paired_differences
from timberkit.metrics.power import DifferenceVariance, difference_variance
from timberkit.metrics.rollout_noise import rollout_interval

__all__ = [
    "BetaBinomial",
    "BinomialBand",
    "Crossing",
    "DifferenceVariance",
    "FrontierGap",
    "Interval",
    "PairedDifference",
    "answer_entropy",
    "binomial_band",
    "cover_at_tau",
    "crossing_point",
    "difference_variance",
    "distinct_answers",
    "exact_pass_at_k",
    "fit_counts",
    "fit_curve",
    "format_failure_rate",
    "frontier_gap",
    "g_pass_at_k",
    "in_words",
    "majority_vote",
    "mean_at_k",
    "mean_interval",
    "paired_difference",
    "paired_differences",
    "pass_at_k",
    "pass_curve",
    "pass_intervals",
    "rollout_interval",
    "truncation_rate",
]
