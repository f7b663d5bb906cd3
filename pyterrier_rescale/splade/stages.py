"""The three roles of a Splade as PyTerrier stages: documents to toks, queries to query_toks, results to scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyterrier as pt
from scipy.sparse import csr_matrix

from .._utils.checks import check_choice, check_integer, check_number
from .._utils.defaults import DefaultInt
from .._utils.stages import ALL_TOKS, Stage
from .._utils.stages import schematic as schematic
from .._utils.text_lines import has_surrogates
from ..encoding.pruning import check_pruning, prune, whole_weights
from ..encoding.terms import MODES, Toks, to_toks

if TYPE_CHECKING:
    from .interface import SparseEncoder

# Documents that PyTerrier's indexing pipelines hand over at a time, by the stage's `batch_size` (else 100): the encoder
# sorts so many by length, and tokenises while the model works.
_WINDOW = DefaultInt(2048)
_ROWS = 128


class _Role(Stage):
    """What the three roles share."""

    splade: SparseEncoder
    _maker = "splade"


class SpladeDocEncoder(_Role):
    """Documents to ``toks``; made by :meth:`Splade.doc_encoder`."""

    _call, _label = "doc_encoder", "SPLADE documents"
    _defaults = {
        "text_field": None, "batch_size": _WINDOW, "scale": 100, "terms": "safe", "max_terms": None, "min_weight": 0.0,
    }  # fmt: skip

    def __init__(
        self,
        splade: SparseEncoder,
        *,
        text_field: str | None = None,
        batch_size: int | None = None,
        scale: float = 100,
        terms: str = "safe",
        verbose: bool | None = None,
        max_terms: int | None = None,
        min_weight: float = 0.0,
    ) -> None:
        self.splade = splade
        self.text_field = splade.text_field if text_field is None else text_field
        self._defaults = {**type(self)._defaults, "text_field": splade.text_field}
        self.batch_size = _WINDOW if batch_size is None else batch_size
        if not isinstance(self.batch_size, DefaultInt):  # which a copy gives back
            self.batch_size = check_integer("batch_size", batch_size)
        self.scale = check_number("scale", scale)
        self.terms = check_choice("terms", terms, MODES)
        self.max_terms, self.min_weight = check_pruning(max_terms, min_weight)
        self.verbose = splade.verbose if verbose is None else verbose

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add ``toks`` to a frame with ``docno`` and the text column; rows and other columns stay."""
        with pt.validate.any(inp, context=self) as v:
            v.document_frame(extra_columns=[self.text_field])
            v.columns(includes=["docno", self.text_field])
        return inp.assign(toks=_column(self._toks(inp[self.text_field].tolist(), inp["docno"].tolist()), inp))

    def transform_iter(self, inp: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The same over dicts, without a frame in between: what indexing pipelines call."""
        records = list(inp)
        for position, record in enumerate(records):
            if not isinstance(record, Mapping):
                raise TypeError(
                    f"document {position} must be a dict with docno and {self.text_field}, got {record!r:.80}: give "
                    "one split of a dataset, a frame's to_dict('records'), a collection's corpus()"
                )
            missing = [name for name in ("docno", self.text_field) if name not in record]
            if missing:
                raise KeyError(
                    f"document {position} ({record.get('docno', 'no docno')!r}) lacks {missing}, which {self!r} needs; "
                    f"it has {sorted(record)}"
                )
        if not records:
            return
        texts, docnos = [record[self.text_field] for record in records], [record["docno"] for record in records]
        codes, vectors = self._vectors(texts, docnos)
        for start in range(0, len(records), _ROWS):  # a dict takes ten times its row's memory
            rows = vectors[codes[start : start + _ROWS]]
            toks = _toks_of(self, rows.indptr, rows.indices, rows.data)
            for record, weights in zip(records[start : start + _ROWS], toks, strict=True):
                yield {**record, "toks": weights}

    def _toks(self, texts: list[str], docnos: list[Any]) -> list[Toks]:
        if not texts:
            return []
        codes, vectors = self._vectors(texts, docnos)
        return _of_each(codes, _toks_of(self, vectors.indptr, vectors.indices, vectors.data))

    def _vectors(self, texts: list[str], docnos: list[Any]) -> tuple[np.ndarray, csr_matrix]:
        """(number of its vector for each text, whole weights >= 1 of the distinct texts)."""
        codes, unique = pd.factorize(np.array(_check_column(texts, self.text_field, self, docnos), dtype=object))
        texts_per_batch = None if isinstance(self.batch_size, DefaultInt) else self.batch_size
        vectors = self.splade._encode(unique.tolist(), texts_per_batch, self.verbose, "doc")
        vectors = prune(vectors, self.max_terms, self.min_weight)
        return codes, whole_weights(vectors, self.scale)


class SpladeQueryEncoder(_Role):
    """Queries to ``query_toks``; made by :meth:`Splade.query_encoder`."""

    _call, _label = "query_encoder", "SPLADE queries"
    _defaults = {"batch_size": None, "scale": 1.0, "terms": "safe", "max_terms": None, "min_weight": 0.0}

    def __init__(
        self,
        splade: SparseEncoder,
        *,
        batch_size: int | None = None,
        scale: float = 1.0,
        terms: str = "safe",
        verbose: bool | None = None,
        max_terms: int | None = None,
        min_weight: float = 0.0,
    ) -> None:
        self.splade = splade
        self._defaults = {**type(self)._defaults, "batch_size": splade.batch_size}
        self.batch_size = _batch_size(splade, batch_size)
        self.scale = check_number("scale", scale)
        self.terms = check_choice("terms", terms, MODES)
        self.max_terms, self.min_weight = check_pruning(max_terms, min_weight)
        self.verbose = splade.verbose if verbose is None else verbose

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add ``query_toks`` to a frame with ``qid`` and ``query``; rows and other columns stay.

        With ``max_terms`` or ``min_weight``, ``query_toks_all`` has all terms.
        """
        with pt.validate.any(inp, context=self) as v:
            v.query_frame(extra_columns=["query"])
            v.columns(includes=["qid", "query"])
        texts = _check_column(inp["query"].tolist(), "query", self, inp["qid"].tolist())
        codes, vectors = [], None
        if texts:
            codes, unique = pd.factorize(np.array(texts, dtype=object))
            vectors = self.splade._encode(unique.tolist(), self.batch_size, self.verbose, "query")
        if self.max_terms is None and not self.min_weight:
            inp = inp.drop(columns=ALL_TOKS, errors="ignore")  # of an encoder before this one: scorers would take it
            return inp.assign(query_toks=self._toks(codes, vectors, inp))
        few = None if vectors is None else prune(vectors, self.max_terms, self.min_weight)
        columns = {"query_toks": self._toks(codes, few, inp), ALL_TOKS: self._toks(codes, vectors, inp)}
        return inp.assign(**columns)

    def _toks(self, codes: Iterable[int], vectors: csr_matrix | None, inp: pd.DataFrame) -> pd.Series:
        if vectors is None:
            return _column([], inp)
        weights = vectors.data.astype(np.float64) * self.scale
        return _column(_of_each(codes, _toks_of(self, vectors.indptr, vectors.indices, weights)), inp)


class SpladeScorer(_Role):
    """Results to scores; made by :meth:`Splade.scorer`."""

    _call, _label = "scorer", "SPLADE scorer"
    _defaults = {"text_field": None, "batch_size": None}

    def __init__(
        self,
        splade: SparseEncoder,
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
            queries = _check_column(inp["query"].tolist(), "query", self, inp["qid"].tolist())
            texts = _check_column(inp[self.text_field].tolist(), self.text_field, self, inp["docno"].tolist())
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


def _batch_size(splade: SparseEncoder, batch_size: int | None) -> int:
    return splade.batch_size if batch_size is None else check_integer("batch_size", batch_size)


def _check_column(texts: list[Any], column: str, role: pt.Transformer, ids: list[Any]) -> list[str]:
    """The texts, if all are; else an error that names the docno, or for queries the qid."""
    for position, text in enumerate(texts):
        if isinstance(text, str) and not has_surrogates(text):
            continue
        what = "must be a string" if not isinstance(text, str) else "holds a lone surrogate, half of a character"
        raise ValueError(
            f"{role!r}: row {position} of column {column!r} {what}, got {text!r:.80} for "
            f"{'qid' if column == 'query' else 'docno'} {ids[position]!r}; drop the row or replace the value by ''"
        )
    return texts


def _toks_of(
    role: SpladeDocEncoder | SpladeQueryEncoder, indptr: np.ndarray, indices: np.ndarray, data: np.ndarray
) -> list[Toks]:
    terms = role.splade.term_map(role.terms)
    return to_toks(terms.terms, indptr, indices, data, vocab=f"{terms.fingerprint}:{role.scale:g}")


def _of_each(codes: np.ndarray, toks: list[Toks]) -> list[Toks]:
    """The weights of each row from those of each distinct text; every row has a dict of its own to change."""
    taken = np.zeros(len(toks), dtype=bool)
    rows = []
    for code in codes:
        rows.append(Toks(toks[code], toks[code].vocab) if taken[code] else toks[code])
        taken[code] = True
    return rows


def _column(values: list[Any], frame: pd.DataFrame) -> pd.Series:
    """An object column that fits the frame's index, also when it is empty."""
    return pd.Series(values, index=frame.index, dtype=object)
