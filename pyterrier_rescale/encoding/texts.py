"""Texts to token ids: what a text may be, where it is cut, and the tokenizer that lower-cases it first."""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .._utils.checks import check_integer, check_is_list
from .._utils.documents import has_surrogates

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Truncation is a tokenizer's state: a call with another length would switch it in the middle of this one.
_lock = threading.Lock()
# Where neither the tokenizer nor the model says how many tokens a text may have; and from where it says so.
_DEFAULT_LENGTH, _NO_LIMIT = 256, 1_000_000


def check_texts(texts: Iterable[str], place: str = "text {0}", ids: Sequence[Any] | None = None) -> list[str]:
    """A list of strings; texts are checked here, once, where they enter.

    An error calls a text by ``place``, which may hold its position {0} and its id {1}, of ``ids``.

    Raises:
        TypeError: if ``texts`` is one string, a mapping, a frame, or nothing to iterate over in order.
        ValueError: for an element that is no text (None, NaN, broken Unicode), naming its place.
    """
    check_is_list(texts, "strings")
    texts = list(texts)
    for position, text in enumerate(texts):
        if not isinstance(text, str) or has_surrogates(text):
            what = "holds half a character (a lone surrogate)" if isinstance(text, str) else "must be a string"
            where = place.format(position, None if ids is None else repr(ids[position]))
            raise ValueError(f"{where} {what}, got {text!r:.80}; drop it or replace it by ''")
    return texts


def check_max_length(max_length: int | None, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens per text: as given, if the model has positions for them; else as many as SparseEncoder reads.

    Those are the tokenizer's length, or fewer where the model has fewer positions; 256 where neither has a limit.

    Raises:
        ValueError: if ``max_length`` is below 3 or more than the model has positions for.
    """
    limit = getattr(model.config, "max_position_embeddings", None)
    limit = limit if isinstance(limit, int) and limit > 0 else None  # no absolute positions
    for name, module in model.named_modules():
        if limit and name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None:
            limit -= module.padding_idx + 1  # RoBERTa-like models number positions from there
    if max_length is None:
        limits = [n for n in (limit, tokenizer.model_max_length) if n is not None and n < _NO_LIMIT]
        return min(limits, default=_DEFAULT_LENGTH)
    # two special tokens and one of text
    if check_integer("max_length", max_length, 3) > (limit or max_length):
        raise ValueError(f"max_length must be at most {limit} for this {type(model).__name__}, got {max_length}")
    return max_length


def token_ids(
    tokenizer: PreTrainedTokenizerBase, texts: list[str], max_length: int, *, special: bool = True
) -> list[list[int]]:
    """Token ids of texts, cut to ``max_length``, without padding; one thread at a time."""
    if not texts:
        return []
    with _lock:
        return tokenizer(
            texts,
            add_special_tokens=special,
            truncation=True,
            max_length=max_length,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]


def lowercasing(tokenizer: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    """A copy of a fast tokenizer that lower-cases its input first, also once it is saved and loaded."""
    from tokenizers import normalizers
    from transformers import PreTrainedTokenizerFast

    backend = copy.deepcopy(tokenizer.backend_tokenizer)
    steps = [normalizers.Lowercase()] + ([backend.normalizer] if backend.normalizer is not None else [])
    backend.normalizer = normalizers.Sequence(steps)
    # classes of one model (BertTokenizer, ...) would build the normaliser anew at loading
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_max_length=tokenizer.model_max_length,
        truncation_side=tokenizer.truncation_side, model_input_names=tokenizer.model_input_names,
        **tokenizer.special_tokens_map,
    )  # fmt: skip
