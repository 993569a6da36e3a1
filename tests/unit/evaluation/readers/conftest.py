"""Logs that other programs wrote: inspect_ai's made by itself, lm-eval's as its 0.4.13 writes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

MAKE_LOG = """
import sys
from inspect_ai import Epochs, Task, eval
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.log import read_eval_log, write_eval_log
from inspect_ai.model import ModelOutput, ModelUsage, get_model
from inspect_ai.scorer import includes, match
from inspect_ai.solver import generate

said = [("4", "stop"), ("5", "stop"), ("4 or 5, who knows", "max_tokens"), ("5", "stop")]
outputs = []
for text, stop in said:
    output = ModelOutput.from_content("mockllm/model", text, stop_reason=stop)
    output.usage = ModelUsage(input_tokens=3, output_tokens=len(text), total_tokens=3 + len(text))
    outputs.append(output)
samples = [Sample(id="a", input="2+2?", target="4"), Sample(id=7, input="2+3?", target="5")]
task = Task(
    dataset=MemoryDataset(samples), solver=generate(), scorer=[match(), includes()], name="sums"
)
(log,) = eval(
    task, model=get_model("mockllm/model", custom_outputs=outputs), epochs=Epochs(2, "mean"),
    log_dir=sys.argv[1], log_format="eval", display="none", max_samples=1,
)
assert log.status == "success", log.error
write_eval_log(read_eval_log(log.location), sys.argv[1] + "/log.json", format="json")
"""


@pytest.fixture(scope="session")
def inspect_logs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One run of two problems with two epochs and two scorers, as ``.eval`` and as ``.json``.

    Samples in order: a/1, 7/1, a/2, 7/2 get the answers 4, 5, cut off, 5.
    """
    pytest.importorskip("inspect_ai")
    folder = tmp_path_factory.mktemp("inspect")
    subprocess.run(
        [sys.executable, "-c", MAKE_LOG, str(folder)],
        check=True,
        capture_output=True,
        cwd=folder,
        timeout=120,
    )
    (log,) = folder.glob("*.eval")
    return {"eval": log, "json": folder / "log.json"}
