"""Training-free refinement of Instruct language models with their Base.

    import timberkit

    timberkit.refine("org/model-base", "org/model", "OUT", variants=["timber:lam=0.2"])
    timberkit.verify("OUT").passed
    timberkit.effective_rank([3.0, 1.0, 0.5])

Files: ``plan``, ``refine``, ``verify``, ``diff``, ``analyze``, ``read_analysis``, ``evaluate``,
``read_rollouts``. In memory: ``refine_model``, ``refine_state_dicts``, ``refine_matrix``,
``spectrum``, ``effective_rank``. Every error is a ``timberkit.errors.TimberkitError``.
Names are loaded when first used, so that importing this package costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from timberkit.engine.analysis_files import read_analysis
    from timberkit.engine.analyze import AnalysisResult
    from timberkit.engine.diff import DiffReport, diff
    from timberkit.engine.in_memory import refine_state_dicts
    from timberkit.engine.in_model import refine_model
    from timberkit.engine.run import RefineResult, plan, refine
    from timberkit.engine.several import SeveralResult
    from timberkit.engine.verify import VerifyReport, verify
    from timberkit.evaluation.run import evaluate
    from timberkit.rollouts import read_rollouts
    from timberkit.spectral.rank import effective_rank
    from timberkit.spectral.refine import refine_matrix, spectrum
    from timberkit.study.analysis import analyze

_HOMES = {
    "AnalysisResult": "timberkit.engine.analyze",
    "DiffReport": "timberkit.engine.diff",
    "RefineResult": "timberkit.engine.run",
    "SeveralResult": "timberkit.engine.several",
    "VerifyReport": "timberkit.engine.verify",
    "analyze": "timberkit.study.analysis",
    "diff": "timberkit.engine.diff",
    "effective_rank": "timberkit.spectral.rank",
    "evaluate": "timberkit.evaluation.run",
    "plan": "timberkit.engine.run",
    "read_analysis": "timberkit.engine.analysis_files",
    "read_rollouts": "timberkit.rollouts",
    "refine": "timberkit.engine.run",
    "refine_matrix": "timberkit.spectral.refine",
    "refine_model": "timberkit.engine.in_model",
    "refine_state_dicts": "timberkit.engine.in_memory",
    "spectrum": "timberkit.spectral.refine",
    "verify": "timberkit.engine.verify",
}

__all__ = [
    "AnalysisResult",
    "DiffReport",
    "RefineResult",
    "SeveralResult",
    "VerifyReport",
    "analyze",
    "diff",
    "effective_rank",
    "evaluate",
    "plan",
    "read_analysis",
    "read_rollouts",
    "refine",
    "refine_matrix",
    "refine_model",
    "refine_state_dicts",
    "spectrum",
    "verify",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
