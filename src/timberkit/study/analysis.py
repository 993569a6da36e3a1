"""The analysis of a pair as a user asks for it: weights, hidden states, files, in one call.

result = analyze("org/model-base", "org/model", "OUT", measure=["rounding", "subspaces"])
print("\\n".join(result.analysis.summary["verdicts"]))
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timberkit.config import (
    DEFAULT_FAMILIES,
    AnalyzeRecipe,
    Source,
    build_analyze_recipe,
    build_selection,
)
from timberkit.engine.analyze import AnalysisResult, analyze_recipe
from timberkit.engine.cluster import Cluster, cluster_of
from timberkit.engine.progress import ProgressCallback
from timberkit.engine.run import source_field
from timberkit.engine.sources import ANY, Opening
from timberkit.study.hidden_states import prepare_texts
from timberkit.study.pictures import can_draw, draw_analysis


def analyze(
    base: str | Path | Source,
    instruct: str | Path | Source,
    output: str | Path,
    *,
    measure: Sequence[str] = (),
    keep_values: str = "delta",
    hidden_states: bool = False,
    prompts: str | Path | None = None,
    families: Sequence[str] = DEFAULT_FAMILIES,
    layers: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    fused: str = "split",
    page: bool = True,
    workers: int | None = 1,
    overwrite: bool = False,
    allow_pickle: bool = False,
    dequantise: bool = False,
    on_progress: ProgressCallback | None = None,
    executor: str = "local",
    address: str | None = None,
) -> AnalysisResult:
    """Measure every selected weight of a pair and write the analysis into a folder.

    Args:
        base, instruct: a folder, or a hub id with an optional ``@revision``.
        output: the folder to write.
        measure: ``rounding`` and ``subspaces``, which cost more than singular values alone.
        keep_values: ``delta``, or ``all`` to keep base's and instruct's singular values too.
        hidden_states: measure Diff-eRank as well (extra ``eval``).
        prompts: a file of texts for it; the embedded pair brings its own.
        page: write figures and ``report.html`` too, where the extra ``report`` is installed.
        families, layers, include, exclude, fused: as for ``refine``.
        workers, overwrite, allow_pickle, dequantise, on_progress, executor, address: as for
            ``refine``.

    Returns:
        An ``AnalysisResult``; ``read_analysis(output)`` gives its ``analysis`` again.

    Raises:
        As ``refine``; MissingExtraError and InputError for hidden states that cannot be measured.

    Cost: see ``spectral.measure.measure_matrix`` for each weight.
    """
    fields: dict[str, Any] = {
        "base": source_field(base),
        "instruct": source_field(instruct),
        "selection": build_selection(families, layers, include, exclude, fused),
        "measure": tuple(measure),
        "keep_values": keep_values,
        "hidden_states": hidden_states,
        "prompts": None if prompts is None else str(prompts),
    }
    return run_analysis(
        build_analyze_recipe(fields, where="options"),
        Path(output),
        page=page,
        workers=workers,
        overwrite=overwrite,
        opening=Opening(allow_pickle, dequantise),
        on_progress=on_progress,
        cluster=cluster_of(executor, address),
    )


def run_analysis(
    recipe: AnalyzeRecipe,
    output: Path,
    *,
    page: bool = True,
    workers: int | None = 1,
    overwrite: bool = False,
    opening: Opening = ANY,
    on_progress: ProgressCallback | None = None,
    cluster: Cluster | None = None,
) -> AnalysisResult:
    """``analyze`` for a recipe that is built already.

    Page and figures need the extra ``report``; without it the tables are written all the same.
    """
    return analyze_recipe(
        recipe,
        output,
        prepare_hidden=prepare_texts,
        draw=draw_analysis if page and can_draw() else None,
        workers=workers,
        overwrite=overwrite,
        opening=opening,
        on_progress=on_progress,
        cluster=cluster,
    )
