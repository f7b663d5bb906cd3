"""Checks of texts and their lengths, before anything is encoded."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from .._utils.checks import check_integer, check_is_list
from .._utils.text_lines import has_surrogates

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_texts(texts: Iterable[str]) -> list[str]:
    """A list of strings.

    Raises:
        TypeError: if ``texts`` is one string, a mapping, a frame, or nothing to iterate over in order.
        ValueError: for an element that is no text (None, NaN, broken Unicode), naming its position.
    """
    check_is_list(texts, "strings")
    texts = list(texts)
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(f"text {position} must be a string, got {text!r:.80}; drop it or replace it by ''")
        if has_surrogates(text):
            raise ValueError(f"text {position} holds a lone surrogate, half of a character: {text!r:.80}")
    return texts


def position_limit(model: PreTrainedModel) -> int | None:
    """Tokens that the model has positions for, or ``None`` where it has no such limit."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(positions, int) or positions <= 0:
        return None
    # RoBERTa-like models number positions from padding_idx + 1
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            return positions - module.padding_idx - 1
    return positions


def check_max_length(max_length: int, model: PreTrainedModel) -> int:
    """Raise ``ValueError`` unless ``max_length`` is at least 3 tokens and the model has positions for them."""
    max_length = check_integer("max_length", max_length)
    limit = position_limit(model)
    if limit is not None and max_length > limit:
        raise ValueError(f"max_length must be at most {limit} for this {type(model).__name__}, got {max_length}")
    if max_length < 3:
        raise ValueError(f"max_length must be at least 3 (two special tokens and one of text), got {max_length}")
    return max_length
