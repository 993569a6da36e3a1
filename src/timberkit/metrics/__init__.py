"""Pure statistics on counts and probabilities: Pass@k and its intervals. NumPy only."""

from timberkit.metrics.pass_at_k import Interval, exact_pass_at_k, paired_difference, pass_curve

__all__ = ["Interval", "exact_pass_at_k", "paired_difference", "pass_curve"]
