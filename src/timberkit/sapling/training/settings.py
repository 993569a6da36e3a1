"""Every number that decides how a Sapling pair is trained.

``SHIPPED`` made the pair in this package; ``SMOKE`` goes through every stage in seconds and learns
nothing. ``RL_PRESETS`` holds both reinforcement-learning settings that were explored: A collapses
the variety of answers strongly, B (shipped) mildly.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of the Llama model; the defaults give 462,080 parameters."""

    hidden: int = 128
    layers: int = 3
    heads: int = 4
    key_value_heads: int = 2
    feed_forward: int = 256
    positions: int = 128


@dataclass(frozen=True, slots=True)
class PretrainSettings:
    """Language modelling on the mixed corpus: AdamW, linear warm-up, cosine to a tenth."""

    steps: int = 2080
    batch: int = 96
    learning_rate: float = 3e-3
    warmup: int = 100
    weight_decay: float = 0.01
    seed: int = 1


@dataclass(frozen=True, slots=True)
class SftSettings:
    """Supervised fine-tuning on correct chat answers: AdamW, cosine to a tenth, no decay."""

    steps: int = 74
    batch: int = 96
    learning_rate: float = 5e-4
    warmup: int = 5
    seed: int = 2


@dataclass(frozen=True, slots=True)
class RlSettings:
    """Policy gradient with a verifiable reward, advantages normalised within a group.

    ``problems``: how many 3-number problems the run draws from; ``group``: rollouts per problem;
    ``batch``: problems per step. Learning rate constant, one update per batch, no KL term.
    """

    steps: int = 355
    problems: int = 2500
    learning_rate: float = 1e-4
    group: int = 16
    batch: int = 20
    seed: int = 3


RL_PRESETS = {
    "A": RlSettings(steps=561, problems=1500, learning_rate=3e-4),
    "B": RlSettings(steps=355, problems=2500, learning_rate=1e-4),
}
"""The two explored settings by name; the shipped Instruct model comes from B."""


@dataclass(frozen=True, slots=True)
class Settings:
    """One whole run: model, three stages, and how many held-out problems to measure on."""

    model: ModelShape = field(default_factory=ModelShape)
    pretrain: PretrainSettings = field(default_factory=PretrainSettings)
    sft: SftSettings = field(default_factory=SftSettings)
    rl: RlSettings = field(default_factory=lambda: RL_PRESETS["B"])
    held_out_problems: tuple[tuple[int, int], ...] = ((3, 300), (4, 100))
    held_out_seed: int = 4


SHIPPED = Settings()
"""Settings that made the pair in this package."""

SMOKE = Settings(
    model=ModelShape(hidden=32, layers=1, heads=2, key_value_heads=1, feed_forward=32),
    pretrain=PretrainSettings(steps=3, batch=8, warmup=1),
    sft=SftSettings(steps=2, batch=8, warmup=1),
    rl=RlSettings(steps=2, problems=8, group=4, batch=4),
    held_out_problems=((3, 5), (4, 2)),
)
"""A few seconds through every stage, for tests."""
