"""The word-level tokenizer: one token per white-space separated word, and a chat template."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timberkit.sapling.vocabulary import BOS, CHAT_TEMPLATE, EOS, IDS, PAD, SPECIAL_WORDS, UNK

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def build_tokenizer(longest: int) -> PreTrainedTokenizerFast:
    """A fast tokenizer over the Sapling vocabulary.

    ``tokenizer(text)`` puts ``<s>`` in front, as Base documents begin; the chat template writes
    its own ``<s>``. Padding goes to the left, as batched generation needs.
    ``longest``: the model's number of positions.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from tokenizers.processors import TemplateProcessing
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(WordLevel(IDS, unk_token=UNK))
    words.pre_tokenizer = WhitespaceSplit()
    words.add_special_tokens(list(SPECIAL_WORDS))
    words.post_processor = TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, IDS[BOS])]
    )
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=words,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        unk_token=UNK,
        padding_side="left",
        model_max_length=longest,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )
