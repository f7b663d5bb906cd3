"""What every way to a backbone shares: its texts, the versions that made it, the note in its record."""

from __future__ import annotations

from collections.abc import Iterable

NOTE = (
    "Pretrained as a masked LM on the texts it was given. Those of a whole collection include, unlabelled, the "
    "documents that its test topics look for."
)


def check_texts(texts: Iterable[str]) -> list[str]:
    """The texts that are not blank.

    Raises:
        TypeError: if ``texts`` is one string, or holds something else than strings.
        ValueError: if there is no text.
    """
    if isinstance(texts, (str, bytes)):
        raise TypeError("texts must be an iterable of str, got one str")
    texts = list(texts)
    for number, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts must be str, got {text!r} at {number}")
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise ValueError("texts must hold at least one text that is not blank")
    return texts


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide the weights."""
    import tokenizers
    import torch
    import transformers

    return {module.__name__: module.__version__ for module in (torch, transformers, tokenizers)}
