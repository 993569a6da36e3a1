"""A model of transformers as inspect_ai asks it: the provider ``timberkit/NAME``.

    engine = LocalEngine(folder)
    model = inspect_model(engine, "refined", config, raw=False)
    engine.close()

inspect's own provider seeds once for all, counts padding as tokens and cannot tell a finished
answer from one that was cut; see ``timberkit.evaluation.local_engine`` for what is done here.
"""

from __future__ import annotations

import asyncio
from typing import cast

from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessage,
    ChatMessageAssistant,
    GenerateConfig,
    Model,
    ModelAPI,
    ModelOutput,
    ModelUsage,
    get_model,
    modelapi,
)
from inspect_ai.tool import ToolChoice, ToolInfo
from tenacity.wait import WaitBaseT, wait_none

from timberkit.errors import UsageError
from timberkit.evaluation.local_engine import LocalEngine
from timberkit.evaluation.sampling import DEFAULT_MAX_TOKENS, Sampling

PROVIDER = "timberkit"


def inspect_model(engine: LocalEngine, name: str, config: GenerateConfig, *, raw: bool) -> Model:
    """The model of an engine for inspect_ai, under the name ``timberkit/NAME``.

    Raises UsageError for chats without a chat template.
    """
    if not raw and not engine.has_chat_template:
        raise UsageError(
            f"{name}: has no chat template, so it cannot be asked in a chat; ask it with plain"
            f" text, as Base models are (--raw {name})"
        )
    model = get_model(f"{PROVIDER}/{name}", config=config, memoize=False, raw=raw)
    cast(LocalModel, model.api).engine = engine
    return model


@modelapi(name=PROVIDER)
class LocalModel(ModelAPI):
    """The provider ``timberkit/NAME`` of inspect_ai; ``inspect_model`` makes it."""

    def __init__(
        self,
        model_name: str,
        base_url: str | None = None,
        api_key: str | None = None,
        config: GenerateConfig | None = None,
        raw: bool = False,
    ) -> None:
        super().__init__(model_name, base_url, api_key, [], config or GenerateConfig())
        self.raw = raw
        self.engine: LocalEngine | None = None

    async def generate(
        self,
        input: list[ChatMessage],
        tools: list[ToolInfo],
        tool_choice: ToolChoice,
        config: GenerateConfig,
    ) -> ModelOutput:
        """Draw one answer; ``config.seed`` decides it."""
        if self.engine is None:
            raise ValueError("this model was not made by inspect_model")
        extra = config.extra_body or {}
        if self.raw:
            prompt = input[-1].text
        else:
            messages = [{"role": each.role, "content": each.text} for each in input]
            prompt = self.engine.render(messages, extra.get("chat_template_kwargs") or {})
        sampling = Sampling(
            temperature=config.temperature,
            top_p=config.top_p,
            top_k=extra.get("top_k"),
            min_p=extra.get("min_p"),
            max_tokens=config.max_tokens,
            stops=tuple(config.stop_seqs or ()),
        )
        answer = await asyncio.wrap_future(
            self.engine.submit(prompt, sampling, seed=config.seed, raw=self.raw)
        )
        message = ChatMessageAssistant(
            content=answer.text, model=self.model_name, source="generate"
        )
        return ModelOutput(
            model=self.model_name,
            choices=[ChatCompletionChoice(message=message, stop_reason=answer.reason)],
            usage=ModelUsage(
                input_tokens=answer.input_tokens,
                output_tokens=answer.output_tokens,
                total_tokens=answer.input_tokens + answer.output_tokens,
            ),
            time=answer.seconds,
        )

    def max_tokens(self) -> int | None:
        """Where a request says nothing."""
        return DEFAULT_MAX_TOKENS

    def max_connections(self) -> int:
        """Enough that the next answers wait when one ends."""
        return connections(self.engine.batch_size) if self.engine is not None else 1

    def retry_wait(self) -> WaitBaseT | None:
        """Nothing is asked twice."""
        return wait_none()

    def connection_key(self) -> str:
        """Every model by itself."""
        return self.model_name


def connections(batch_size: int) -> int:
    """How many requests to have under way so that a batch of this size stays full."""
    return batch_size + max(8, batch_size // 2)
