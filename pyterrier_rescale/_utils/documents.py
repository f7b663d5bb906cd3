"""Documents in the forms that people hold them: dicts, a frame, a Hugging Face dataset; and what no text may hold."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any


def as_documents(documents: Any) -> Iterable[Any]:
    """Return a frame, a split of a Hugging Face dataset, or dicts as an iterable of dicts, not checked."""
    if hasattr(documents, "itertuples"):
        return documents.to_dict("records")
    if hasattr(documents, "to_dicts"):  # Polars
        return documents.to_dicts()
    if isinstance(documents, (str, bytes, Mapping)) or not isinstance(documents, Iterable):
        hint = ": give its corpus()" if hasattr(documents, "corpus") else ""
        raise TypeError(
            "documents must be an iterable of dicts, a frame or one split of a Hugging Face dataset, got "
            f"{documents!r:.120}{hint}"
        )
    return documents


#: Whether a text holds lone surrogates, which UTF-8 and all tokenizers refuse.
has_surrogates = re.compile("[\ud800-\udfff]").search
