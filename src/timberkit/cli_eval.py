"""``timberkit eval``: flags of the command, and what it shows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timberkit.cli_options import Config, Json, Quiet, fields_of, print_json, stoppable
from timberkit.errors import RecipeError, UsageError
from timberkit.evaluation_recipe import EvaluationRecipe, TaskChoice, build_evaluation_recipe

if TYPE_CHECKING:
    from timberkit.evaluation.run import EvaluationOptions, EvaluationResult

Models = Annotated[
    list[str] | None,
    typer.Argument(
        help="NAME=SOURCE or SOURCE; a SOURCE is a folder, a hub id such as org/name[@revision], a"
        " server such as http://localhost:8000/v1#served-name, sapling:base or sapling:instruct."
    ),
]
Output = Annotated[
    Path | None,
    typer.Option("--output", "-o", help="Folder of the run; one that is there is continued."),
]
Tasks = Annotated[
    list[str] | None, typer.Option("--task", help="NAME or NAME:SETTING; several may be given.")
]
Data = Annotated[
    list[str] | None,
    typer.Option("--data", help="TASK=FILE, where a benchmark's file is not at its usual home."),
]
Shots = Annotated[
    list[str] | None, typer.Option("--shots", help="TASK=FILE of solved examples, likewise.")
]
Rollouts = Annotated[int | None, typer.Option("--rollouts", "-n", help="For each problem [1].")]
Limit = Annotated[int | None, typer.Option(help="Only the first problems of each task.")]
Problems = Annotated[
    str | None, typer.Option(help="Only these problems: keys, or @FILE with one a line.")
]
Seed = Annotated[int | None, typer.Option(help="Of all rollouts; each has its own of it [0].")]
Prompt = Annotated[str | None, typer.Option(help="chat, or raw: plain text for all models [chat].")]
Raw = Annotated[
    list[str] | None, typer.Option("--raw", help="Plain text for this model: a Base, as a rule.")
]
Temperature = Annotated[
    str | None, typer.Option(help="One, or several with commas: each model once at each of them.")
]
Preset = Annotated[
    str | None, typer.Option(help="Sampling of the paper by family, or greedy [by the model].")
]
Thinking = Annotated[bool | None, typer.Option("--thinking/--no-thinking", help="[model's own]")]
TopP = Annotated[float | None, typer.Option(help="In (0, 1].")]
TopK = Annotated[int | None, typer.Option(help="0 turns it off.")]
MinP = Annotated[float | None, typer.Option(help="In [0, 1].")]
MaxTokens = Annotated[int | None, typer.Option(help="Longest answer, reasoning included.")]
TemplateArgs = Annotated[
    list[str] | None, typer.Option("--template-arg", help="K=V for the chat template.")
]
Serve = Annotated[str | None, typer.Option(help="vllm: start a server for folders and hub ids.")]
ServeArgs = Annotated[str | None, typer.Option(help="Further arguments for it, in quotes.")]
TensorParallel = Annotated[int, typer.Option(min=1, help="GPUs that share one copy (vllm).")]
DataParallel = Annotated[int, typer.Option(min=1, help="Copies of the model (vllm).")]
Connections = Annotated[
    int | None, typer.Option(min=1, help="Requests under way at a server [64].")
]
Batch = Annotated[
    int | None, typer.Option(min=1, help="Rollouts that a local model draws together [by size].")
]
DeviceChoice = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N, of a local model.")]
ModelDtype = Annotated[
    str | None, typer.Option(help="float32, bfloat16, float16 or auto, of a local model.")
]
Timeout = Annotated[float | None, typer.Option(min=1, help="Seconds for one answer [14400].")]
Retries = Annotated[int | None, typer.Option(min=0, help="Of a request that fails [6].")]
MaxFailures = Annotated[
    float, typer.Option(min=0, max=1, help="Share of requests that may fail for good.")
]
GradeWorkers = Annotated[
    int | None, typer.Option(min=1, help="Answers judged at once [cores, up to 8].")
]
StandardFields = Annotated[
    bool, typer.Option("--standard-fields", help="For servers that refuse fields OpenAI lacks.")
]
Unsandboxed = Annotated[
    bool, typer.Option("--unsandboxed", help="Run code from models without a sandbox.")
]


@stoppable
def evaluate(
    models: Models = None,
    output: Output = None,
    task: Tasks = None,
    data: Data = None,
    shots: Shots = None,
    rollouts: Rollouts = None,
    limit: Limit = None,
    problems: Problems = None,
    seed: Seed = None,
    prompt: Prompt = None,
    raw: Raw = None,
    temperature: Temperature = None,
    preset: Preset = None,
    thinking: Thinking = None,
    top_p: TopP = None,
    top_k: TopK = None,
    min_p: MinP = None,
    max_tokens: MaxTokens = None,
    template_arg: TemplateArgs = None,
    config: Config = None,
    serve: Serve = None,
    serve_args: ServeArgs = None,
    tensor_parallel: TensorParallel = 1,
    data_parallel: DataParallel = 1,
    connections: Connections = None,
    batch: Batch = None,
    device: DeviceChoice = None,
    dtype: ModelDtype = None,
    timeout: Timeout = None,
    retries: Retries = None,
    max_failures: MaxFailures = 0.1,
    grade_workers: GradeWorkers = None,
    standard_fields: StandardFields = False,
    unsandboxed: Unsandboxed = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the plan, ask and write nothing.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Ask models the problems of benchmarks, many times each, and judge the answers.

    The same command continues a run that was stopped, and sends requests again that failed. With
    more rollouts, problems, models or tasks it asks for what is new.

    \b
    timberkit eval sapling:base sapling:instruct --task sapling -n 64 -o RUN
    timberkit eval before=org/model after=refined --task aime24 --task math500:paper -n 64 -o RUN
    timberkit eval base=org/model-base --raw base --task gpqa-diamond -n 256 -o RUN
    timberkit eval http://localhost:8000/v1 --task ifeval --data ifeval=input_data.jsonl -o RUN
    timberkit eval org/model --serve vllm --task aime24 --temperature 0.6,1.0 -n 320 -o RUN
    """
    recipe = _recipe(
        config, data, shots,
        models=models or None, tasks=task or None, rollouts=rollouts, limit=limit,
        problems=_problem_keys(problems), seed=seed, prompt=prompt, raw_models=raw or None,
        preset=preset, thinking=thinking, temperatures=_numbers(temperature), top_p=top_p,
        top_k=top_k, min_p=min_p, max_tokens=max_tokens,
        template_args=_pairs("--template-arg", template_arg, values=True),
        unsandboxed=unsandboxed or None,
    )  # fmt: skip
    if dry_run:
        _show_plan(recipe, output, as_json=as_json, quiet=quiet)
        return
    if output is None:
        raise UsageError("no output named; add: -o FOLDER")
    from timberkit import terminal, terminal_eval
    from timberkit.evaluation.run import evaluate as run_evaluation

    messages = terminal.messages(quiet=quiet)
    options = evaluation_options(
        serve, serve_args, max_failures, grade_workers,
        tensor_parallel=tensor_parallel, data_parallel=data_parallel, connections=connections,
        batch_size=batch, device=device, dtype=dtype, request_seconds=timeout, retries=retries,
        fields="standard" if standard_fields else None,
        notify=lambda text: messages.print(terminal.one_line(text)),
    )  # fmt: skip
    with terminal_eval.progress_table(shown=not quiet and not as_json) as on_progress:
        result = run_evaluation(recipe, output, options=options, on_progress=on_progress)
    if as_json:
        print_json(_result_fields(result))
    else:
        terminal_eval.show_evaluation(terminal.results(quiet=quiet), result)


def _recipe(
    config: Path | None, data: list[str] | None, shots: list[str] | None, **flags: Any
) -> EvaluationRecipe:
    """One recipe from a file and the flags given, which override the file's fields."""
    fields, origin = fields_of(config)
    given = {name: value for name, value in flags.items() if value is not None}
    fields |= given
    for name, example in (("models", "MODEL"), ("tasks", "--task aime24")):
        if not fields.get(name):
            raise UsageError(
                f"no {name} given; write: timberkit eval MODEL --task TASK -o RUN, with {example},"
                " or name them in --config"
            )
    fields["tasks"] = with_files(fields["tasks"], data, shots)
    return build_evaluation_recipe(fields, where=origin.with_flags(given))


def with_files(tasks: Any, data: list[str] | None, shots: list[str] | None) -> Any:
    """The tasks of a recipe with the files of ``--data`` and ``--shots``."""
    for field, flag, given in (("data", "--data", data), ("shots", "--shots", shots)):
        files = _pairs(flag, given)
        if files:
            tasks = _with_field(tasks, field, flag, files)
    return tasks


def _with_field(tasks: Any, field: str, flag: str, files: dict[str, Any]) -> list[Any]:
    """The tasks of a recipe, with their files."""
    if not isinstance(tasks, list | tuple):
        raise RecipeError(f"tasks: found {type(tasks).__name__}, expected a list")
    found, left = [], dict(files)
    for each in tasks:
        choice = TaskChoice.parse(each).model_dump() if isinstance(each, str) else dict(each)
        if choice.get("name") in files:
            choice[field] = left.pop(choice["name"], files[choice["name"]])
        found.append(choice)
    if left:
        raise UsageError(f"{flag} {next(iter(left))}=…: no task of this name is asked")
    return found


def evaluation_options(
    serve: str | None,
    serve_args: str | None,
    most_failures: float,
    grade_workers: int | None,
    **backends: Any,
) -> EvaluationOptions:
    """How models are asked, from flags; UsageError for flags that do not go together."""
    import shlex

    from timberkit.evaluation.backends import BackendOptions
    from timberkit.evaluation.run import EvaluationOptions

    if serve not in (None, "vllm"):
        raise UsageError(f"--serve {serve}: expected vllm")
    if serve_args is not None and serve is None:
        raise UsageError("--serve-args: given without --serve vllm")
    try:
        arguments = tuple(shlex.split(serve_args or ""))
    except ValueError as error:
        raise UsageError(f"--serve-args: cannot be read: {error}") from None
    given = {name: value for name, value in backends.items() if value is not None}
    return EvaluationOptions(
        backend="auto" if serve is None else "vllm",
        backends=BackendOptions(**given, vllm_arguments=arguments),
        grade_workers=grade_workers,
        most_failures=most_failures,
    )


def _pairs(flag: str, texts: list[str] | None, *, values: bool = False) -> dict[str, Any] | None:
    """``K=V`` texts; with ``values``, a V that is JSON (true, 3) is that value."""
    if not texts:
        return None
    found: dict[str, Any] = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name or not value:
            raise UsageError(f"{flag} {text}: write {flag} NAME=VALUE")
        if name in found:
            raise UsageError(f"{flag} {name}: given more than once")
        found[name] = _value(value) if values else value
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _numbers(text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise UsageError(f"--temperature {text}: write numbers, such as 0.6,1.0") from None


def _problem_keys(text: str | None) -> list[str] | None:
    if text is None:
        return None
    if not text.startswith("@"):
        return [part.strip() for part in text.split(",") if part.strip()]
    try:
        lines = Path(text[1:]).expanduser().read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--problems {text}: cannot be read: {error}") from None
    return [line.strip() for line in lines if line.strip()]


def _show_plan(
    recipe: EvaluationRecipe, output: Path | None, *, as_json: bool, quiet: bool
) -> None:
    from timberkit import terminal, terminal_eval
    from timberkit.evaluation.needs import evaluation_needs
    from timberkit.evaluation.planning import plan_evaluation

    needs = evaluation_needs(plan_evaluation(recipe, check_graders=True), output)
    if as_json:
        print_json(needs.as_json())
    else:
        terminal_eval.show_evaluation_plan(terminal.results(quiet=quiet), needs)


def _result_fields(result: EvaluationResult) -> dict[str, Any]:
    return {
        "output": str(result.output),
        "new_rollouts": result.new,
        "resumed": result.resumed,
        "seconds": result.seconds,
        "notices": list(result.notices),
        "summary": dict(result.summary),
    }
