"""LexicalEncoder: Splade's interface without a model, for the row that no table of encoders should lack."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._utils.checks import check_choice, check_integer, check_number, check_share
from .._utils.files import expand, filled
from ..encoding.lexical import WEIGHTINGS, StaticEncoder, TokenStatistics, count_encoder, token_statistics
from ..heads.fingerprint import settings_fingerprint, tokenizer_fingerprint
from ..heads.hub_files import save_tokenizer
from .encoder import Splade

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_FILE, _IDF_FILE = "lexical.json", "idf.npy"
_SETTINGS: dict[str, Any] = {"weighting": "tokens", "k1": 1.2, "b": 0.75, "max_length": 256}


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
            with, else ``"tokens"``.
        k1: BM25's saturation; else 1.2.
        b: BM25's length normalisation; else 0.75.
        max_length: tokens per text, special ones included; what exceeds it is cut, as an encoder would; else 256.
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
        weighting: str | None = None,
        k1: float | None = None,
        b: float | None = None,
        max_length: int | None = None,
        lowercase: bool = False,
        batch_size: int = 2048,
        text_field: str = "text",
        verbose: bool = False,
    ) -> None:
        from ..encoding.texts import lowercasing
        from ..heads.checkpoint import load_tokenizer

        loaded: Any = tokenizer
        if isinstance(tokenizer, (str, os.PathLike)):
            loaded = load_tokenizer(os.fspath(tokenizer))
        saved = _saved(tokenizer) if idf_from is None else {}
        given = {"weighting": weighting, "k1": k1, "b": b, "max_length": max_length}
        settings = {**_SETTINGS, **saved, **{name: value for name, value in given.items() if value is not None}}
        vars(self).update({f"_{name}": value for name, value in given.items()})  # for repr and PyTerrier's copies
        self.weighting = check_choice("weighting", settings["weighting"], WEIGHTINGS)
        self.k1, self.b = float(check_number("k1", settings["k1"], zero=True)), float(check_share("b", settings["b"]))
        self.max_length = check_integer("max_length", settings["max_length"], 3)
        self.batch_size = check_integer("batch_size", batch_size)
        self.model, self.tokenizer = None, tokenizer
        self.text_field, self.lowercase, self.verbose = text_field, lowercase, verbose
        loaded = lowercasing(loaded) if lowercase else loaded
        if saved:
            idf_from = TokenStatistics(saved["idf"], saved["mean_length"], saved["texts"])
        elif not isinstance(idf_from, TokenStatistics):
            idf_from = token_statistics(loaded, idf_from, self.max_length)
        self.idf_from: TokenStatistics = idf_from
        counts = count_encoder(loaded, self.max_length)
        if len(idf_from.idf) != counts.vocab_size:
            raise ValueError(
                f"idf_from is of a vocabulary of {len(idf_from.idf)}, the tokenizer has {counts.vocab_size}"
            )
        bm25 = {"k1": self.k1, "b": self.b, "mean_length": idf_from.mean_length} if self.weighting == "bm25" else {}
        self.encoder: Any = StaticEncoder(loaded, idf_from.idf, self.max_length, special=True, **bm25)
        self.queries_encoder = counts if bm25 else self.encoder
        self._terms = {}

    @property
    def fingerprint(self) -> str:
        """Sixteen hex digits of all that the vectors depend on: tokenizer, IDF and settings."""
        idf = hashlib.sha256(self.idf_from.idf.astype("<f8").tobytes()).hexdigest()
        settings = [self.weighting, self.max_length]
        if self.weighting == "bm25":
            settings += [self.k1, self.b, self.idf_from.mean_length]
        return settings_fingerprint(["lexical", tokenizer_fingerprint(self.encoder.tokenizer), idf, settings])

    def save_pretrained(self, path: str | Path) -> None:
        """Save tokenizer, IDF and settings in a folder that ``LexicalEncoder(path)`` reads; there is no model in it."""
        tokenizer, statistics = self.encoder.tokenizer, self.idf_from
        settings = {name: getattr(self, name) for name in _SETTINGS}
        settings |= {"mean_length": statistics.mean_length, "texts": statistics.texts}
        if (expand(path) / "config.json").exists():
            raise FileExistsError(f"{str(path)!r} holds a model, whose tokenizer this would replace: choose another")
        with filled(path, _FILE) as stage:
            save_tokenizer(stage, tokenizer)
            np.save(stage / _IDF_FILE, statistics.idf)
            (stage / _FILE).write_text(json.dumps(settings, indent=1), encoding="utf-8")


def _saved(path: Any) -> dict[str, Any]:
    """What :meth:`LexicalEncoder.save_pretrained` wrote."""
    folder = expand(path) if isinstance(path, (str, os.PathLike)) else Path()
    if not (folder / _FILE).is_file():
        raise ValueError("idf_from must be given: the texts of the corpus, from which IDF is counted")
    return {**json.loads((folder / _FILE).read_text(encoding="utf-8")), "idf": np.load(folder / _IDF_FILE)}
