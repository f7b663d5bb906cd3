"""LexicalEncoder: Splade's interface without a model, for the row that no table of encoders should lack."""

from __future__ import annotations

import copyreg
import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._utils.checks import check_choice, check_integer, check_number, check_share
from .._utils.defaults import DefaultFloat, DefaultInt, DefaultStr
from .._utils.filling import filled
from .._utils.paths import expand
from ..encoding.lexical import WEIGHTINGS, LexicalSide, TokenStatistics, token_statistics, vocabulary_size
from .encoder import Splade

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FILE, _IDF_FILE = "lexical.json", "idf.npy"
_SAVED = ("weighting", "k1", "b", "max_length", "mean_length", "texts", "tokenizer")
#: What a folder was saved with wins over these, and what is given over both.
_DEFAULTS: dict[str, Any] = {
    "weighting": DefaultStr("tokens"), "k1": DefaultFloat(1.2), "b": DefaultFloat(0.75), "max_length": DefaultInt(256),
}  # fmt: skip


class LexicalEncoder(Splade):
    """A model-free encoder: a tokenizer's own pieces, weighted by IDF or as BM25 does.

    A factory of the same stages as :class:`Splade`, with the same methods, whose vectors need no model: what a small
    trained encoder is to be compared with. ``encode_docs``, ``doc_encoder``, ``scorer``, ``explain``, ``systems`` and
    all engines take it as they take a Splade.

    Args:
        tokenizer: a tokenizer, a hub name, a folder with one; or a folder saved by :meth:`save_pretrained`.
        idf_from: the corpus's texts, read once; or the :class:`~pyterrier_rescale.encoding.lexical.TokenStatistics` of
            another LexicalEncoder. Left out only where ``tokenizer`` is a folder of ours.
        weighting: ``"tokens"``: IDF of each piece that occurs, on both sides. ``"bm25"``: BM25's impacts in documents,
            counts in queries; the dot product is BM25's score. Default, as of the next three: what the folder was saved
            with, else what stands above.
        k1: BM25's saturation.
        b: BM25's length normalisation.
        max_length: tokens per text, special ones included; what exceeds it is cut, as an encoder would.
        lowercase: lower-case texts first.
        batch_size: texts per batch of a stage.
        text_field: column of the documents' text.
        verbose: show progress bars.

    Raises:
        TypeError, ValueError, FileNotFoundError: for a tokenizer, texts or settings that cannot serve.

    Example:
        >>> bm25 = LexicalEncoder("google-bert/bert-base-uncased", idf_from=texts, weighting="bm25")
        >>> (bm25.doc_encoder() >> index.indexer()).index(collection.corpus())
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase | str | os.PathLike[str],
        *,
        idf_from: Iterable[str] | TokenStatistics | None = None,
        weighting: str = _DEFAULTS["weighting"],
        k1: float = _DEFAULTS["k1"],
        b: float = _DEFAULTS["b"],
        max_length: int = _DEFAULTS["max_length"],
        lowercase: bool = False,
        batch_size: int = 2048,
        text_field: str = "text",
        verbose: bool = False,
    ) -> None:
        from ..encoding.text_encoder import lowercasing
        from ..heads.checkpoint import load_tokenizer
        from ..heads.fingerprint import tokenizer_fingerprint

        saved = _saved(tokenizer) if idf_from is None else None
        given = {"weighting": weighting, "k1": k1, "b": b, "max_length": max_length}
        if saved is not None:
            given = {name: saved[name] if value is _DEFAULTS[name] else value for name, value in given.items()}
            weighting, k1, b, max_length = given.values()
        weighting = str(check_choice("weighting", weighting, WEIGHTINGS))
        k1, b = float(check_number("k1", k1, zero=True)), float(check_share("b", b))
        batch_size, max_length = check_integer("batch_size", batch_size), check_integer("max_length", max_length)
        if max_length < 3:
            raise ValueError(f"max_length must be at least 3 (two special tokens and one of text), got {max_length}")
        self.model = None
        self.tokenizer = tokenizer
        self.weighting, self.k1, self.b = weighting, k1, b
        self.max_length, self.batch_size = max_length, batch_size
        self.text_field, self.lowercase, self.verbose = text_field, lowercase, verbose
        loaded: Any = tokenizer
        if isinstance(tokenizer, (str, os.PathLike)):
            loaded = load_tokenizer(os.fspath(tokenizer))
        elif not callable(getattr(tokenizer, "get_vocab", None)):
            raise TypeError(f"tokenizer must be a tokenizer, its name or folder, got {type(tokenizer).__name__}")
        if saved is not None:
            if saved["tokenizer"] != tokenizer_fingerprint(loaded):
                raise ValueError(
                    f"{str(tokenizer)!r}: its tokenizer is not that of its {_IDF_FILE}, something else has been saved "
                    "there since: give idf_from"
                )
            idf_from = TokenStatistics(saved["idf"], saved["mean_length"], saved["texts"])
        loaded = lowercasing(loaded) if lowercase else loaded
        if idf_from is None:
            raise ValueError("idf_from must be given: the texts of the corpus, from which IDF is counted")
        if isinstance(idf_from, TokenStatistics):
            if len(idf_from.idf) != vocabulary_size(loaded):
                raise ValueError(
                    f"idf_from is of a vocabulary of {len(idf_from.idf)}, the tokenizer has {vocabulary_size(loaded)}"
                )
        else:
            idf_from = token_statistics(loaded, idf_from, max_length)
        self.idf_from: TokenStatistics = idf_from
        options: dict[str, Any] = {"weighting": weighting, "max_length": max_length, "k1": k1, "b": b}
        self.encoder = LexicalSide(loaded, idf_from, query=False, **options)  # type: ignore[assignment]
        self.queries_encoder = LexicalSide(loaded, idf_from, query=True, **options)  # type: ignore[assignment]
        self._terms = {}

    def _settings(self) -> dict[str, Any]:
        bm25 = {"k1": self.k1, "b": self.b} if self.weighting == "bm25" else {}
        return {"weighting": self.weighting, "max_length": self.max_length, **bm25}

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits of all that the vectors depend on: tokenizer, IDF and settings."""
        from ..heads.fingerprint import settings_fingerprint, tokenizer_fingerprint

        idf = hashlib.sha256(self.idf_from.idf.astype("<f8").tobytes()).hexdigest()
        length = self.idf_from.mean_length if self.weighting == "bm25" else None
        tokenizer = tokenizer_fingerprint(self.encoder.tokenizer)
        return settings_fingerprint(["lexical", tokenizer, idf, length, self._settings()])

    def save_pretrained(self, path: str | Path) -> None:
        """Save tokenizer, IDF and settings in a folder that ``LexicalEncoder(path)`` reads; there is no model in it."""
        from ..heads.fingerprint import tokenizer_fingerprint

        settings = {"weighting": self.weighting, "k1": self.k1, "b": self.b, "max_length": self.max_length,
                    "mean_length": self.idf_from.mean_length, "texts": self.idf_from.texts,
                    "tokenizer": tokenizer_fingerprint(self.encoder.tokenizer)}  # fmt: skip
        if (expand(path) / "config.json").exists():
            raise FileExistsError(f"{str(path)!r} holds a model, whose tokenizer this would replace: choose another")
        with filled(path, _FILE) as stage:
            self.encoder.tokenizer.save_pretrained(stage)
            np.save(stage / _IDF_FILE, self.idf_from.idf)
            (stage / _FILE).write_text(json.dumps(settings, indent=1), encoding="utf-8")

    def __reduce__(self) -> tuple[Any, ...]:
        """By value: there is no model to be found by a name."""
        return copyreg.__newobj__, (type(self),), vars(self)  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        given = self.tokenizer
        name = repr(str(given)) if isinstance(given, (str, os.PathLike)) else f"<{type(given).__name__}>"
        defaults = {"weighting": "tokens", "k1": 1.2, "b": 0.75, "max_length": 256, "lowercase": False,
                    "batch_size": 2048, "text_field": "text"}  # fmt: skip
        changed = [f"{k}={getattr(self, k)!r}" for k, default in defaults.items() if getattr(self, k) != default]
        return f"LexicalEncoder({', '.join([name, f'idf_from={self.idf_from!r}', *changed])})"


def _saved(tokenizer: Any) -> dict[str, Any] | None:
    """What :meth:`LexicalEncoder.save_pretrained` wrote, or ``None`` where this is no such folder."""
    if not isinstance(tokenizer, (str, os.PathLike)) or not (expand(tokenizer) / _FILE).is_file():
        return None
    folder = expand(tokenizer)
    try:
        saved = json.loads((folder / _FILE).read_text(encoding="utf-8"))
        return {**{name: saved[name] for name in _SAVED}, "idf": np.load(folder / _IDF_FILE)}
    except (OSError, ValueError, KeyError, EOFError) as error:
        message = f"{str(folder)!r} holds no whole LexicalEncoder ({error!r}): give idf_from, or save it anew"
        raise ValueError(message) from error
