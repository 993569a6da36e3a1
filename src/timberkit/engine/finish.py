"""What stands beside the weights of an output: configs, tokenizer, card, manifest with hashes."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from timberkit import records
from timberkit.checkpoint.adapter import LORA, name_base
from timberkit.checkpoint.manifest import list_output_files, read_manifest, write_manifest
from timberkit.checkpoint.model_card import (
    CardSource,
    read_licence,
    read_pipeline_tag,
    write_model_card,
)
from timberkit.checkpoint.pickled import PICKLES
from timberkit.checkpoint.reader import fingerprint
from timberkit.checkpoint.sidecars import copy_sidecars, copy_tokenizer
from timberkit.checkpoint.source import public_name
from timberkit.config import AnyVariant, variant_name
from timberkit.engine.execute import Executor
from timberkit.engine.plan import SAFETENSORS_DTYPE, RefinementPlan
from timberkit.engine.sources import OpenPair, described, rounding_caution
from timberkit.engine.tasks import HashTask
from timberkit.errors import CheckpointError
from timberkit.methods import explanation, parameters_shown

TOOL_VERSION = version("timberkit")


def finish_outputs(
    folders: Mapping[str, Path],
    pair: OpenPair,
    plan: RefinementPlan,
    found: Mapping[str, records.TensorRecord],
    *,
    executor: Executor,
    workers: int,
    seconds: float,
) -> None:
    """Complete every variant's folder: the weights are there already.

    Copies the small files of Instruct, writes the card, hashes everything, writes the manifest
    last. A second call after a kill does all of it again.
    """
    dtype = None if pair.recipe.dtype is None else SAFETENSORS_DTYPE[pair.recipe.dtype]
    skipped = {}
    for variant in pair.recipe.variants:
        folder = folders[variant_name(variant)]
        own = pair.weights["instruct"] if pair.recipe.as_adapter else pair.instruct
        copied = copy_sidecars(own, folder, dtype=dtype, base_folder=pair.base.folder)
        skipped = dict(copied.skipped)
        if pair.adapter is not None and pair.recipe.as_adapter:
            name_base(folder, pair.base_source)
        elif pair.adapter is not None:
            copy_tokenizer(pair.adapter.folder, folder)
        _write_card(folder, pair, variant)
    ordered = sorted(found.values(), key=_place)
    hashes = _hash_outputs(folders, executor)
    for variant in pair.recipe.variants:
        name = variant_name(variant)
        write_manifest(
            folders[name],
            {
                "tool": {"name": "timberkit", "version": TOOL_VERSION},
                "recipe": pair.recipe.model_dump(mode="json"),
                "variant": variant.model_dump(mode="json"),
                "sources": {
                    "base": source_facts(pair, "base"),
                    "instruct": source_facts(pair, "instruct"),
                },
                "refined": [records.to_json(_of_variant(record, name)) for record in ordered],
                "copied": {
                    tensor.name: tensor.reason for tensor in plan.tensors if tensor.action == "copy"
                },
                "common_rows": {
                    tensor.name: tensor.refined_shape[0] for tensor in plan.other_vocabulary
                },
                "other_layout": [tensor.name for tensor in plan.other_layout],
                "base_only": list(plan.base_only),
                "files_left_out": skipped,
                "files": hashes[name],
                "run": {"seconds": round(seconds, 3), "workers": workers, **libraries()},
            },
        )


def read_records(folders: Sequence[Path]) -> tuple[records.TensorRecord, ...]:
    """The records that the manifests of a run's folders hold, all variants joined.

    Raises CheckpointError for a manifest that is missing, or whose records do not fit.
    """
    joined: dict[tuple[str, int, str], records.TensorRecord] = {}
    for folder in folders:
        listed = read_manifest(folder).get("refined")
        if not isinstance(listed, list) or not all(isinstance(item, dict) for item in listed):
            raise CheckpointError(f"{folder}: timberkit.json: 'refined' is no list of records")
        for record in map(records.from_json, listed):
            key = _place(record)
            if key in joined:
                changes = joined[key].matrix.changes + record.matrix.changes
                record = replace(record, matrix=replace(record.matrix, changes=changes))
            joined[key] = record
    return tuple(joined.values())


def _place(record: records.TensorRecord) -> tuple[str, int, str]:
    return record.name, -1 if record.index is None else record.index, record.part or ""


def _of_variant(record: records.TensorRecord, variant: str) -> records.TensorRecord:
    changes = tuple(change for change in record.matrix.changes if change.variant == variant)
    return replace(record, matrix=replace(record.matrix, changes=changes))


def source_facts(pair: OpenPair, which: Literal["base", "instruct"]) -> dict[str, Any]:
    """What a manifest says of a source: its public name, its revision, its shards.

    Of a source that was converted also from what (``converted_from``); the shards are then those of
    the conversion.
    """
    checkpoint = pair.weights[which]
    resolved = pair.base_source if which == "base" else pair.instruct_source
    shards = {
        name: {"size_bytes": facts["size_bytes"], "header_sha256": facts["header_sha256"]}
        for name, facts in fingerprint(checkpoint).items()
    }
    was = pair.conversions.get(which)
    facts = {} if was is None else {"converted_from": was}
    if which == "instruct" and pair.adapter is not None:
        facts["adapter"] = "lora"
    return {**described(resolved), **facts, "shards": shards}


def _write_card(folder: Path, pair: OpenPair, variant: AnyVariant) -> None:
    was = dict(pair.conversions)
    if pair.adapter is not None:
        was["instruct"] = LORA
    base, instruct = (
        CardSource(public_name(source), source.is_hub, source.revision, was.get(which))
        for which, source in (("base", pair.base_source), ("instruct", pair.instruct_source))
    )
    named = [
        f"{source.name}@{source.revision}" if source.is_hub else placeholder
        for source, placeholder in ((base, "BASE"), (instruct, "INSTRUCT"))
    ]
    write_model_card(
        folder,
        base=base,
        instruct=instruct,
        method=variant.method,
        explanation=explanation(variant),
        reference=type(variant).source,
        parameters=parameters_shown(variant),
        families=pair.recipe.selection.families,
        tool_version=TOOL_VERSION,
        # The manifest holds every option, and any further variants of the same pass.
        command=[
            *("timberkit", "refine", *named, "--config", "timberkit.json", "-o", "OUT"),
            *(["--allow-pickle"] if PICKLES in pair.conversions.values() else []),
            *(["--dequantise"] if set(pair.conversions.values()) - {PICKLES} else []),
        ],
        licence=read_licence(pair.instruct.folder),
        pipeline_tag=read_pipeline_tag(pair.instruct.folder),
        caution=rounding_caution(pair.conversions),
        adapter=pair.recipe.as_adapter,
        from_adapter=pair.adapter is not None,
    )


def _hash_outputs(folders: Mapping[str, Path], executor: Executor) -> dict[str, dict[str, str]]:
    tasks = [
        HashTask(str(folder / name), (folder / name).stat().st_size)
        for folder in folders.values()
        for name in list_output_files(folder)
    ]
    tasks.sort(key=lambda task: -task.size_bytes)
    with closing(executor.run(tasks)) as outcomes:
        found = {outcome.key: outcome.sha256 or "" for outcome in outcomes}
    return {
        variant: {
            name: found[HashTask(str(folder / name), 0).key] for name in list_output_files(folder)
        }
        for variant, folder in folders.items()
    }


def libraries() -> dict[str, str]:
    """Versions that decide the last bit of a result."""
    names = ("torch", "numpy", "scipy", "safetensors")
    return {"python": platform.python_version(), **{name: version(name) for name in names}}
