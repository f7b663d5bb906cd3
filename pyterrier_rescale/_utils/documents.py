"""Documents in the forms that people hold them: dicts, a frame, a Hugging Face dataset; and what no text may hold."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any


def as_documents(documents: Any) -> Iterable[Any]:
    """Return documents as an iterable of dicts; what they hold is not checked, and iterables are not read.

    Args:
        documents: an iterable of dicts, a frame, or one split of a Hugging Face dataset, streamed or not.

    Raises:
        TypeError: for anything else, such as a string, one dict, a collection, or all splits of a dataset.
    """
    if isinstance(documents, Mapping) and hasattr(documents, "column_names"):
        raise TypeError(
            f"documents must be one split, e.g. dataset[{next(iter(documents), 'train')!r}], got a "
            f"{type(documents).__name__} of {', '.join(map(str, documents)) or 'nothing'}"
        )
    if hasattr(documents, "itertuples"):
        return documents.to_dict("records")
    if isinstance(documents, (str, bytes, Mapping)) or not isinstance(documents, Iterable):
        hint = ": give its corpus()" if hasattr(documents, "corpus") else ""
        raise TypeError(
            f"documents must be an iterable of dicts, a frame or a Hugging Face Dataset, got {documents!r}"[:200] + hint
        )
    return documents


def has_surrogates(text: str) -> bool:
    """Whether text holds lone surrogates, which UTF-8 and all tokenizers refuse."""
    if text.isascii():
        return False
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return True
    return False
