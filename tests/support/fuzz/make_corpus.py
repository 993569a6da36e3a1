"""Make the seeds of the corpus: small files of every kind, each written by who writes such files.

    PYTHONPATH=src:tests/support python -m fuzz.make_corpus FOLDER

The seeds in ``corpus`` were made so. Run again only for a new kind or a new version of a format.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from made_analysis import made_analysis
from made_findings import made_findings
from safetensors.torch import save_file

import timberkit
from timberkit.checkpoint.journal import Journal
from timberkit.engine.analysis_files import write_analysis
from timberkit.evaluation.journal import Generation, Segment
from timberkit.findings import findings_to_json
from timberkit.measurements import Analysis, WeightMeasurement
from timberkit.metrics.summary import summarise
from timberkit.rollouts import Rollout, write_rollouts

OTHERS_LOG = """
import sys
from inspect_ai import Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import read_eval_log, write_eval_log
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import match
from inspect_ai.solver import generate
task = Task(
    dataset=MemoryDataset([Sample(id="a", input="2+2?", target="4")]), solver=generate(),
    scorer=match(), name="sums",
)
answer = ModelOutput.from_content("mockllm/model", "4")
answer.usage = ModelUsage(input_tokens=3, output_tokens=1, total_tokens=4)
(log,) = eval(
    task, model=get_model("mockllm/model", custom_outputs=[answer]), log_dir=sys.argv[1],
    log_format="eval", display="none",
)
assert log.status == "success", log.error
found = read_eval_log(log.location)
found.samples[0].events, found.eval.model_args = [], {}
for name in ("log.eval", "log.json"):
    write_eval_log(found, f"{sys.argv[1]}/{name}", format=name[4:])
"""
CARD = """---
license: other
license_name: own
license_link: https://example.org/licence
pipeline_tag: text-generation
tags: [a, b]
---
# A model
"""
RECIPE = """# A recipe with a value of every kind.
base: org/base@0123456789012345678901234567890123456789
instruct: {hub: org/instruct}
variants:
  - timber: {lam: 0.5}
  - merge:mu=0.8
  - {method: truncate-rank, ratio: 0.5}
selection: {families: [attention, ffn], layers: 1-2, exclude: ["*.bias"]}
dtype: float32
"""
LM_EVAL = {
    "doc_id": 0, "doc": {"question": "2+2?"}, "target": "4",
    "arguments": {"gen_args_0": {"arg_0": "2+2?", "arg_1": {"until": ["\n"]}}},
    "resps": [["so 4"]], "filtered_resps": ["4"], "filter": "strict-match",
    "metrics": ["exact_match"], "doc_hash": "0123456789abcdef", "exact_match": 1.0,
}  # fmt: skip
LINE = {
    "model": "m", "task": "t", "setting": "s", "problem": "p", "rollout": 1, "correct": True,
    "answer": "4", "stop": "length", "seed": 5, "temperature": 1, "seconds": 0.5,
}  # fmt: skip
CONFIG = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8,
    "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "intermediate_size": 16,
    "num_hidden_layers": 1, "num_experts": 2, "dtype": "bfloat16", "tie_word_embeddings": False,
    "rope_scaling": {"factor": 2.0, "rope_type": "linear"}, "text_config": {"hidden_size": 8},
    "quantization_config": {"quant_method": "fp8", "weight_block_size": [4, 4]},
}  # fmt: skip


def write_pair(folder: Path) -> tuple[Path, Path]:
    """A Base and an Instruct of one layer, Instruct in two shards with an index."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"q_proj": (8, 8), "qkv_proj": (16, 8), "gate_up_proj": (32, 8)}
    for model in ("base", "instruct"):
        (folder / model).mkdir(parents=True)
        tensors = {
            f"model.layers.0.{'mlp' if 'up' in name else 'self_attn'}.{name}.weight": torch.randn(
                shape, generator=generator
            ).bfloat16()
            for name, shape in shapes.items()
        }
        experts = torch.randn(2, 8, 4, generator=generator).bfloat16()
        second = {
            "model.norm.weight": torch.ones(8),
            "model.layers.0.mlp.experts.down_proj": experts,
        }
        names = ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors")
        for name, part in zip(names, (tensors, second), strict=True):
            save_file(part, folder / model / name, {"format": "pt"})
        weight_map = {**dict.fromkeys(tensors, names[0]), **dict.fromkeys(second, names[1])}
        index = {"metadata": {"total_size": 1}, "weight_map": weight_map}
        (folder / model / "model.safetensors.index.json").write_text(json.dumps(index))
        plain = {key: CONFIG[key] for key in CONFIG if key != "quantization_config"}
        (folder / model / "config.json").write_text(json.dumps(plain))
    return folder / "base", folder / "instruct"


def two_weights() -> Analysis:
    """An analysis of two small weights."""
    made = made_analysis(layers=1)
    weights = tuple(weight for weight in made.weights if "k_proj" in weight.name)
    weights = (*weights, replace(weights[0], name="model.layers.1.k_proj", layer=1))
    weights = tuple(_cut_to(weight, 16) for weight in weights)
    states = made.hidden_states[:2]
    return replace(made, weights=weights, hidden_states=states, summary=summarise(weights, states))


def _cut_to(weight: WeightMeasurement, r: int) -> WeightMeasurement:
    values = weight.delta.singular_values
    assert values is not None
    return replace(
        weight,
        rows=r,
        columns=r,
        cut=replace(weight.cut, cut=2),
        delta=replace(weight.delta, singular_values=values[:r]),
        base=replace(weight.base, singular_values=None),
        instruct=replace(weight.instruct, singular_values=None),
    )


def few_findings() -> dict[str, Any]:
    """The results of a study, two entries of each list."""
    found = findings_to_json(made_findings())
    return {
        key: value[:2] if isinstance(value, list | tuple) and key != "ks" else value
        for key, value in found.items()
    }


def main(corpus: Path) -> None:
    """Write all seeds."""

    def keep(kind: str, name: str, content: bytes | str) -> None:
        (corpus / kind).mkdir(parents=True, exist_ok=True)
        data = content.encode() if isinstance(content, str) else content
        (corpus / kind / name).write_bytes(data)

    with tempfile.TemporaryDirectory() as place:
        root = Path(place)
        base, instruct = write_pair(root)
        timberkit.refine(base, instruct, root / "out", workers=1)
        manifest = (root / "out" / "timberkit.json").read_text()
        keep("manifest", "seed.json", manifest.replace(place, "/models"))
        keep("index", "seed.json", (instruct / "model.safetensors.index.json").read_bytes())
        keep("config", "seed.json", json.dumps(CONFIG))
        keep(
            "shard",
            "seed.safetensors",
            (instruct / "model-00002-of-00002.safetensors").read_bytes(),
        )
        journal = Journal(root / "journal.jsonl")
        journal.append([{"key": "a", "n": 1}, {"key": "b", "x": [1.5, None]}])
        journal.close()
        keep("journal", "seed.jsonl", (root / "journal.jsonl").read_bytes())
        segment = Segment(root / "segment.jsonl", number=1, digest="d")
        segment.append([Generation("p", 1, 5, "so 4", "stop", 3, 1, 0.5)])
        segment.close()
        keep("segment", "seed.jsonl", (root / "segment.jsonl").read_bytes())
        (root / "analysis").mkdir()
        write_analysis(root / "analysis", two_weights())
        keep("spectra", "seed.parquet", (root / "analysis" / "spectra.parquet").read_bytes())
        keep("summary", "seed.json", (root / "analysis" / "summary.json").read_bytes())
        write_rollouts(root / "r.parquet", [Rollout("m", "t", "", "p", 1, True, "4", text="so 4")])
        keep("rollouts", "seed.parquet", (root / "r.parquet").read_bytes())
        keep("results", "seed.json", json.dumps(few_findings()))
        subprocess.run([sys.executable, "-c", OTHERS_LOG, place], check=True, cwd=place)
        keep("eval-log", "others.eval", (root / "log.eval").read_bytes())
        keep("eval-log", "others.json", (root / "log.json").read_bytes())
        run = ("eval", "sapling:base", "--task", "sapling", "--limit", "1", "-n", "1", "-o")
        subprocess.run(
            [sys.executable, "-m", "timberkit", *run, root / "run"], check=True, cwd=place
        )
        (log,) = (root / "run").glob("logs/*/*.eval")
        keep("eval-log", "ours.eval", log.read_bytes())
        fields = json.loads((root / "run" / "timberkit.json").read_bytes())
        fields["problems"] = {name: keys[:2] for name, keys in fields["problems"].items()}
        keep("run", "seed.json", json.dumps(fields))
    keep("card", "seed.md", CARD)
    keep("recipe", "seed.yaml", RECIPE)
    keep(
        "recipe",
        "seed.json",
        json.dumps({"base": "org/a", "instruct": "b", "variants": ["timber"]}),
    )
    keep("variant", "seed.txt", 'free:edges=2,gains={"*.up_proj [3 up]": [0.5, 1]}')
    keep("variant", "noise.txt", "noise:seed=1,of=within:families=attention+ffn,of=timber:lam=0.2")
    keep("samples", "lm_eval.jsonl", json.dumps(LM_EVAL) + "\n")
    keep("samples", "lines.jsonl", f"{json.dumps(LINE)}\n{json.dumps({**LINE, 'rollout': 2})}\n")
    keep("benchmark", "seed.csv", "problem,answer,n\n2+2?,4,1\n")
    keep("benchmark", "seed.jsonl", json.dumps({"problem": "2+2?", "answer": "4"}) + "\n")
    generation = {"do_sample": True, "temperature": 0.6, "top_k": 20, "eos_token_id": [1, 2]}
    keep("generation", "generation_config.json", json.dumps(generation))
    template = {"chat_template": [{"name": "default", "template": "{{ enable_thinking }}<think>"}]}
    keep("generation", "tokenizer_config.json", json.dumps(template))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
