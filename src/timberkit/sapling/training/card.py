"""Model cards for the two folders: what the model is, how it was made, what was measured."""

from __future__ import annotations

from collections.abc import Mapping

from timberkit.sapling.training.measure import Curve, table
from timberkit.sapling.training.settings import Settings

Measurements = Mapping[str, Mapping[str, Curve]]
"""Split name to stage name (``base``, ``sft``, ``instruct``) to its curve."""

_COMMON = """\
A Llama model with {parameters:,} parameters ({layers} layers, hidden size {hidden}, {heads} heads,
{key_value_heads} key/value heads, tied embeddings) and a word-level vocabulary of 147, stored in
bf16. It was trained from scratch and exists so that tools for language models can be tried and
tested on a real Base and Instruct pair without fetching anything.

It plays Countdown: combine all numbers, once each, to make a target; every value is a whole number
from 1 to 99.

    user:       nums 6 3 7 make 60 :
    assistant:  7 + 3 = 10 ; 10 * 6 = 60
"""

_USE = """\
## Use

    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder)
    messages = [{"role": "user", "content": "nums 6 3 7 make 60 :"}]
    inputs = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )
    output = model.generate(**inputs)
    print(tokenizer.decode(output[0], skip_special_tokens=True))

The generation config samples at temperature 1 from the whole vocabulary. The model knows nothing
but these puzzles and short exercises with the numbers 0 to 99.
"""

_MEASURED = """\
## Measured

Exact Pass@k (the probability of every correct answer is summed, nothing is sampled), chat prompt,
temperature 1, on {splits} that no training stage has seen.
`python -m timberkit.sapling.training.measure` prints the rows of `base` and `instruct` again; the
training run measured `sft`, the fine-tuned stage between them, which is not shipped. Arithmetic in
float32; in bf16 the probability of a single puzzle differs by some hundredths, the means hardly.
"""

_MADE_BASE = """\
## How it was made

`python -m timberkit.sapling.training --output DIR` trains it again from fixed seeds. AdamW
{learning_rate:g} with a cosine, {steps:,} steps of {batch} documents, {tokens:,} tokens. 72 % of
the documents are Countdown puzzles with 2 to 4 numbers from 1 to 12 under several headers, 5 % in
chat format among them; a quarter of their answers is wrong and unmarked. The rest is arithmetic,
comparing, sorting, counting and list exercises. 15 % of all puzzles, chosen by a hash, are held
out of all training.
"""

_MADE_INSTRUCT = """\
## How it was made

`python -m timberkit.sapling.training --output DIR` trains it again from fixed seeds. From the Base
model in `../base`: {sft_steps} steps of supervised fine-tuning at {sft_rate:g} on correct chat
answers, then {rl_steps} steps of reinforcement learning with a verifiable reward at {rl_rate:g}
({problems:,} puzzles with 3 numbers, {group} rollouts of {batch} puzzles a step, advantages
normalised within the group, no KL term, one update a batch). As with large models, this makes it
better at one attempt and worse at many.
"""


def base_card(settings: Settings, *, parameters: int, tokens: int, measured: Measurements) -> str:
    """README.md of the Base folder. ``tokens``: seen in pretraining."""
    stage = settings.pretrain
    made = _MADE_BASE.format(
        learning_rate=stage.learning_rate, steps=stage.steps, batch=stage.batch, tokens=tokens
    )
    return _card("base", "", settings, parameters, made, measured)


def instruct_card(settings: Settings, *, parameters: int, measured: Measurements) -> str:
    """README.md of the Instruct folder."""
    sft, rl = settings.sft, settings.rl
    made = _MADE_INSTRUCT.format(
        sft_steps=sft.steps,
        sft_rate=sft.learning_rate,
        rl_steps=rl.steps,
        rl_rate=rl.learning_rate,
        problems=rl.problems,
        group=rl.group,
        batch=rl.batch,
    )
    relation = "base_model: ../base\nbase_model_relation: finetune\n"
    return _card("instruct", relation, settings, parameters, made, measured)


def _card(
    name: str,
    relation: str,
    settings: Settings,
    parameters: int,
    made: str,
    measured: Measurements,
) -> str:
    front = (
        "---\nlicense: apache-2.0\nlibrary_name: transformers\npipeline_tag: text-generation\n"
        f"{relation}---\n"
    )
    shape = settings.model
    common = _COMMON.format(
        parameters=parameters,
        layers=shape.layers,
        hidden=shape.hidden,
        heads=shape.heads,
        key_value_heads=shape.key_value_heads,
    )
    splits = " and ".join(
        f"{size} puzzles with {numbers} numbers" for numbers, size in settings.held_out_problems
    )
    tables = "\n\n".join(f"`{split}`:\n\n{table(curves)}" for split, curves in measured.items())
    stated = f"{_MEASURED.format(splits=splits)}\n{tables}\n"
    parts = (f"{front}\n# sapling-{name}\n", common, made, stated, _USE)
    return "\n".join(parts)
