"""The PyTerrier adapters: Splade and its three roles. No mathematics here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyterrier as pt

from .terms import MODES, TermMap, Toks, to_toks

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from .encoder import TextEncoder

HELP_URL = "https://pyterrier.readthedocs.io/en/latest/ext/pyterrier-rescale/"


class _DefaultStr(str):
    """A default that can be told from the same value typed by the user: a saved folder's own setting then wins."""


class _DefaultInt(int):
    """See ``_DefaultStr``."""


_MAX_POOLING = _DefaultStr("max")
_LENGTH_256 = _DefaultInt(256)


class Splade(pt.Transformer):
    """A SPLADE encoder: a masked LM whose head gives term weights; factory of PyTerrier stages.

    Called itself, it encodes: queries (``qid, query`` -> ``+query_toks``), documents (``docno, text`` -> ``+toks``) or
    scores results (``qid, query, docno, text`` -> ``+score, rank``).

    Args:
        model: a hub name, a folder, or a loaded masked LM.
        tokenizer: a tokenizer, its name or folder; default: the model's.
        rescale: divide the head by this constant first (:func:`~pyterrier_rescale.rescale`), or ``None``.
        pooling: ``"max"`` or ``"sum"`` over positions; default: what the folder was saved with, else ``"max"``.
        max_length: tokens per text; default: what the folder was saved with, else 256 (fewer where the model has fewer positions).
        batch_size: texts per batch at most.
        text_field: column of the documents' text.
        lowercase: lower-case texts first.
        device: torch device; default: CUDA where present, else CPU.
        dtype: torch dtype of the weights, or its name; default: float32.
        verbose: show progress bars.

    Raises:
        TypeError, ValueError, FileNotFoundError: for a model, tokenizer or setting that cannot serve.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] | PreTrainedModel,
        *,
        tokenizer: PreTrainedTokenizerBase | str | None = None,
        rescale: float | None = None,
        pooling: str = _MAX_POOLING,
        max_length: int = _LENGTH_256,
        batch_size: int = 32,
        text_field: str = "text",
        lowercase: bool = False,
        device: Any = None,
        dtype: Any = None,
        verbose: bool = False,
    ) -> None:
        from .loading import load_backbone
        from .encoder import TextEncoder, check_positive, position_limit
        from .head import check_k
        from .head import rescale as rescale_head
        from .layout import saved_settings

        if isinstance(rescale, str):
            raise ValueError(
                f"rescale must be a number or None here, got {rescale!r}: 'auto' and 'calibrated' need texts; use "
                "calibrate(model, texts).apply(model), or train(..., rescale=...)"
            )
        if rescale is not None:
            check_k(rescale)
        check_positive("batch_size", batch_size)
        if isinstance(model, (str, os.PathLike)):
            saved = saved_settings(model)
            pooling = saved.get("pooling", pooling) if pooling is _MAX_POOLING else pooling
            max_length = saved.get("max_length", max_length) if max_length is _LENGTH_256 else max_length
        loaded, loaded_tokenizer = load_backbone(model, tokenizer, dtype=dtype)
        if max_length is _LENGTH_256:
            max_length = min(256, position_limit(loaded) or 256)
        self.model = model
        self.tokenizer = tokenizer
        self.rescale = rescale
        self.pooling = pooling
        self.max_length = max_length
        self.batch_size = batch_size
        self.text_field = text_field
        self.lowercase = lowercase
        self.device = device
        self.dtype = dtype
        self.verbose = verbose
        if rescale is not None:
            loaded = rescale_head(loaded, rescale, inplace=loaded is not model)
        if loaded is model and dtype is not None:
            raise ValueError("dtype cannot be changed for a loaded model: load it with the dtype wanted")
        self.encoder: TextEncoder = TextEncoder(
            loaded,
            loaded_tokenizer,
            pooling=str(pooling),
            max_length=int(max_length),
            batch_size=batch_size,
            lowercase=lowercase,
            device=device,
        )
        self._terms: dict[str, TermMap] = {}

    # Roles

    def doc_encoder(
        self,
        *,
        text_field: str | None = None,
        batch_size: int | None = None,
        scale: float = 100,
        terms: str = "safe",
        verbose: bool | None = None,
    ) -> SpladeDocEncoder:
        """Stage ``docno, text`` -> ``+toks``: {term: rounded int(scale * weight) >= 1}, ready for an index.

        Args:
            text_field: column of the text; default: the factory's.
            batch_size: texts per batch at most; default: the factory's.
            scale: units per weight; 100 keeps .99 of the exact top 10.
            terms: ``"safe"`` or ``"raw"``, see :mod:`pyterrier_rescale.terms`.
            verbose: show a progress bar; default: the factory's.
        """
        return SpladeDocEncoder(
            self, text_field=text_field, batch_size=batch_size, scale=scale, terms=terms, verbose=verbose
        )

    def query_encoder(
        self, *, batch_size: int | None = None, scale: float = 1.0, terms: str = "safe", verbose: bool | None = None
    ) -> SpladeQueryEncoder:
        """Stage ``qid, query`` -> ``+query_toks``: {term: scale * weight}, floats > 0.

        Arguments as for :meth:`doc_encoder`.
        """
        return SpladeQueryEncoder(self, batch_size=batch_size, scale=scale, terms=terms, verbose=verbose)

    def scorer(
        self, *, text_field: str | None = None, batch_size: int | None = None, verbose: bool | None = None
    ) -> SpladeScorer:
        """Stage ``qid, query, docno, text`` -> ``+score, rank``: exact dot products, no index needed.

        Arguments as for :meth:`doc_encoder`.
        """
        return SpladeScorer(self, text_field=text_field, batch_size=batch_size, verbose=verbose)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Encode queries or documents, or score results, as the columns tell."""
        with pt.validate.any(inp, context=self) as v:
            v.columns(includes=["qid", "query", "docno", self.text_field], mode="score")
            v.columns(includes=["docno", self.text_field], excludes=["qid"], mode="documents")
            v.columns(includes=["qid", "query"], mode="queries")
        roles = {"score": self.scorer, "documents": self.doc_encoder, "queries": self.query_encoder}
        return roles[v.mode]()(inp)

    # Vectors

    def encode_docs(self, texts: Iterable[str]) -> csr_matrix:
        """Unscaled document vectors, shape (N, V), float32; column = token id; a blank text gives a zero row."""
        return self._encode(list(texts), None, self.verbose, "doc")

    def encode_queries(self, texts: Iterable[str]) -> csr_matrix:
        """Unscaled query vectors, shape (N, V), float32; column = token id; a blank text gives a zero row."""
        return self._encode(list(texts), None, self.verbose, "query")

    def _encode(self, texts: list[str], batch_size: int | None, verbose: bool | None, unit: str) -> csr_matrix:
        verbose = self.verbose if verbose is None else verbose
        if not verbose:
            return self.encoder.encode(texts, batch_size=batch_size)
        with pt.tqdm(total=len(texts), desc="Splade", unit=unit) as bar:
            return self.encoder.encode(texts, batch_size=batch_size, progress=bar.update)

    def term_map(self, terms: str = "safe") -> TermMap:
        """The terms of this encoder's vocabulary, by token id."""
        if terms not in self._terms:
            self._terms[terms] = TermMap(self.encoder.tokenizer, self.encoder.vocab_size, terms)
        return self._terms[terms]

    def top_terms(self, text: str, n: int = 10) -> list[tuple[str, float]]:
        """The n heaviest terms of a text with their weights, readable, heaviest first."""
        row = self.encode_docs([text])
        best = np.lexsort((row.indices, -row.data))[:n]
        terms, tokenizer = self.term_map(), self.encoder.tokenizer
        return [(terms.readable(int(row.indices[i]), tokenizer), float(row.data[i])) for i in best]

    def save_pretrained(self, path: str | Path) -> None:
        """Save the folder that ``Splade(path)``, AutoModelForMaskedLM, SparseEncoder and pyterrier_splade load."""
        from .layout import save_encoder

        encoder = self.encoder
        save_encoder(
            path, encoder.model, encoder.tokenizer, pooling=encoder.pooling, max_length=encoder.max_length
        )

    # What PyTerrier asks of a transformer

    def subtransformers(self) -> dict[str, Any]:
        """A factory holds no stages."""
        return {}

    def schematic(self, *, input_columns: list[str] | None = None) -> dict[str, Any]:
        """Drawing of the stage, made offline."""
        return _schematic(self, "Splade", input_columns)

    @cached_property
    def _identity(self) -> tuple[Any, ...]:
        model = str(self.model) if isinstance(self.model, (str, os.PathLike)) else id(self.model)
        tokenizer = self.tokenizer if isinstance(self.tokenizer, (str, type(None))) else id(self.tokenizer)
        return (
            model, tokenizer, self.rescale, self.pooling, self.max_length, self.text_field, self.lowercase,
            str(self.device), str(self.dtype),
        )  # fmt: skip

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Splade) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    def __repr__(self) -> str:
        model = self.model
        name = repr(str(model)) if isinstance(model, (str, os.PathLike)) else f"<{type(model).__name__}>"
        defaults = {"rescale": None, "pooling": "max", "max_length": 256, "batch_size": 32, "text_field": "text",
                    "lowercase": False, "device": None, "dtype": None}  # fmt: skip
        given = [f"{k}={getattr(self, k)!r}" for k, default in defaults.items() if getattr(self, k) != default]
        return f"Splade({', '.join([name, *given])})"


class _Role(pt.Transformer):
    """What the three roles share: arguments under their own names, equality, repr in call syntax."""

    splade: Splade
    _call: str
    _defaults: dict[str, Any]
    _label: str

    def subtransformers(self) -> dict[str, Any]:
        """The factory is no stage of its own."""
        return {}

    def schematic(self, *, input_columns: list[str] | None = None) -> dict[str, Any]:
        """Drawing of the stage, made offline."""
        return _schematic(self, self._label, input_columns)

    def _values(self) -> tuple[Any, ...]:
        return tuple(getattr(self, name) for name in self._defaults)

    def __eq__(self, other: object) -> bool:
        return type(self) is type(other) and (self.splade, self._values()) == (other.splade, other._values())

    def __hash__(self) -> int:
        return hash((type(self), self.splade, self._values()))

    def __repr__(self) -> str:
        given = [
            f"{name}={getattr(self, name)!r}"
            for name, default in self._defaults.items()
            if getattr(self, name) != default
        ]
        return f"{self.splade!r}.{self._call}({', '.join(given)})"


class SpladeDocEncoder(_Role):
    """Documents to ``toks``; made by :meth:`Splade.doc_encoder`."""

    _call, _label = "doc_encoder", "SPLADE documents"
    _defaults = {"text_field": None, "batch_size": None, "scale": 100, "terms": "safe"}

    def __init__(
        self,
        splade: Splade,
        *,
        text_field: str | None = None,
        batch_size: int | None = None,
        scale: float = 100,
        terms: str = "safe",
        verbose: bool | None = None,
    ) -> None:
        self.splade = splade
        self.text_field = splade.text_field if text_field is None else text_field
        self._defaults = {**type(self)._defaults, "text_field": splade.text_field, "batch_size": splade.batch_size}
        self.batch_size = _batch_size(splade, batch_size)
        self.scale = _check_scale(scale)
        self.terms = _check_terms(terms)
        self.verbose = splade.verbose if verbose is None else verbose

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add ``toks`` to a frame with ``docno`` and the text column; rows and other columns stay."""
        with pt.validate.any(inp, context=self) as v:
            v.document_frame(extra_columns=[self.text_field])
            v.columns(includes=["docno", self.text_field])
        return inp.assign(toks=_column(self._toks(inp[self.text_field].tolist()), inp))

    def transform_iter(self, inp: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The same over dicts, without a frame in between: what indexing pipelines call."""
        records = list(inp)
        for position, record in enumerate(records):
            missing = [name for name in ("docno", self.text_field) if name not in record]
            if missing:
                raise KeyError(
                    f"document {position} ({record.get('docno', 'no docno')!r}) lacks {missing}, which {self!r} needs; "
                    f"it has {sorted(record)}"
                )
        toks = self._toks([record[self.text_field] for record in records])
        for record, weights in zip(records, toks, strict=True):
            yield {**record, "toks": weights}

    def _toks(self, texts: list[str]) -> list[Toks]:
        if not texts:
            return []
        codes, unique = pd.factorize(np.array(_check_column(texts, self.text_field, self), dtype=object))
        vectors = self.splade._encode(unique.tolist(), self.batch_size, self.verbose, "doc")
        # float64: 100 * a float32 weight near n + .5 must round the way numpy's rint of the product does
        data = np.rint(vectors.data.astype(np.float64) * self.scale).astype(np.int64)
        vectors = _drop_below_one(vectors, data)
        toks = _toks_of(self, *vectors)
        return [toks[code] for code in codes]


class SpladeQueryEncoder(_Role):
    """Queries to ``query_toks``; made by :meth:`Splade.query_encoder`."""

    _call, _label = "query_encoder", "SPLADE queries"
    _defaults = {"batch_size": None, "scale": 1.0, "terms": "safe"}

    def __init__(
        self,
        splade: Splade,
        *,
        batch_size: int | None = None,
        scale: float = 1.0,
        terms: str = "safe",
        verbose: bool | None = None,
    ) -> None:
        self.splade = splade
        self._defaults = {**type(self)._defaults, "batch_size": splade.batch_size}
        self.batch_size = _batch_size(splade, batch_size)
        self.scale = _check_scale(scale)
        self.terms = _check_terms(terms)
        self.verbose = splade.verbose if verbose is None else verbose

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add ``query_toks`` to a frame with ``qid`` and ``query``; rows and other columns stay."""
        with pt.validate.any(inp, context=self) as v:
            v.query_frame(extra_columns=["query"])
            v.columns(includes=["qid", "query"])
        texts = _check_column(inp["query"].tolist(), "query", self)
        toks: list[Toks] = []
        if texts:
            codes, unique = pd.factorize(np.array(texts, dtype=object))
            vectors = self.splade._encode(unique.tolist(), self.batch_size, self.verbose, "query")
            weights = vectors.data.astype(np.float64) * self.scale
            encoded = _toks_of(self, vectors.indptr, vectors.indices, weights)
            toks = [encoded[code] for code in codes]
        return inp.assign(query_toks=_column(toks, inp))


class SpladeScorer(_Role):
    """Results to scores; made by :meth:`Splade.scorer`."""

    _call, _label = "scorer", "SPLADE scorer"
    _defaults = {"text_field": None, "batch_size": None}

    def __init__(
        self,
        splade: Splade,
        *,
        text_field: str | None = None,
        batch_size: int | None = None,
        verbose: bool | None = None,
    ) -> None:
        self.splade = splade
        self.text_field = splade.text_field if text_field is None else text_field
        self._defaults = {"text_field": splade.text_field, "batch_size": splade.batch_size}
        self.batch_size = _batch_size(splade, batch_size)
        self.verbose = splade.verbose if verbose is None else verbose

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Score each (query, text) pair by the dot product of its vectors, and rank per query."""
        pt.validate.result_frame(inp, extra_columns=["query", self.text_field], context=self)
        scores = np.zeros(len(inp))
        if len(inp):
            queries = _check_column(inp["query"].tolist(), "query", self)
            texts = _check_column(inp[self.text_field].tolist(), self.text_field, self)
            query_codes, unique_queries = pd.factorize(np.array(queries, dtype=object))
            text_codes, unique_texts = pd.factorize(np.array(texts, dtype=object))
            encode = self.splade._encode
            query_vectors = encode(unique_queries.tolist(), self.batch_size, False, "query")
            text_vectors = encode(unique_texts.tolist(), self.batch_size, self.verbose, "doc")
            for start in range(0, len(inp), 4096):  # bounds the gathered rows
                part = slice(start, start + 4096)
                product = query_vectors[query_codes[part]].multiply(text_vectors[text_codes[part]])
                scores[part] = np.asarray(product.sum(axis=1, dtype=np.float64)).ravel()
        return pt.model.add_ranks(inp.assign(score=scores))


def _schematic(transformer: pt.Transformer, label: str, input_columns: list[str] | None) -> dict[str, Any]:
    return {"label": label, "name": repr(transformer), "help_url": HELP_URL}


def _batch_size(splade: Splade, batch_size: int | None) -> int:
    from .encoder import check_positive

    return splade.batch_size if batch_size is None else check_positive("batch_size", batch_size)


def _check_scale(scale: float) -> float:
    if isinstance(scale, bool) or not isinstance(scale, (int, float)) or not 0 < scale < float("inf"):
        raise ValueError(f"scale must be a finite number > 0, got {scale!r}")
    return scale


def _check_terms(terms: str) -> str:
    if terms not in MODES:
        raise ValueError(f"terms must be 'safe' or 'raw', got {terms!r}")
    return terms


def _check_column(texts: list[Any], column: str, role: pt.Transformer) -> list[str]:
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise ValueError(
                f"{role!r}: row {position} of column {column!r} must be a string, got {text!r}; "
                "drop the row or replace the value by ''"
            )
    return texts


def _toks_of(
    role: SpladeDocEncoder | SpladeQueryEncoder, indptr: np.ndarray, indices: np.ndarray, data: np.ndarray
) -> list[Toks]:
    terms = role.splade.term_map(role.terms)
    return to_toks(terms.terms, indptr, indices, data, vocab=f"{terms.fingerprint}:{role.scale:g}")


def _column(values: list[Any], frame: pd.DataFrame) -> pd.Series:
    """An object column that fits the frame's index, also when it is empty."""
    return pd.Series(values, index=frame.index, dtype=object)


def _drop_below_one(vectors: csr_matrix, data: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """indptr, indices, data without entries < 1: a zero weight corrupts a posting list."""
    keep = data >= 1
    kept = np.concatenate([[0], np.cumsum(keep)])
    return kept[vectors.indptr], vectors.indices[keep], data[keep]
