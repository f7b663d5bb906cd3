"""Checks of texts and their lengths, before anything is encoded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from typing import TYPE_CHECKING, Any

from .._utils.checks import check_integer
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


def check_is_list(texts: Any, of: str) -> None:
    """Raise ``TypeError`` for what would be iterated over by letters, keys, columns, or in no fixed order."""
    wrong = isinstance(texts, (str, bytes, Mapping, Set)) or hasattr(texts, "columns")
    if wrong or not isinstance(texts, Iterable):
        advice = {str: "one string; wrap it: [text]", dict: "a dict; give a list of its values"}
        what = advice.get(type(texts), type(texts).__name__)
        if hasattr(texts, "columns"):
            what += "; give one of its columns, e.g. frame['text']"
        raise TypeError(f"texts must be a list of {of}, got {what}")


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
