"""The three roles of a Splade as PyTerrier stages: documents to toks, queries to query_toks, results to scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
from scipy.sparse import csr_matrix

from .._utils.checks import check_choice, check_integer, check_number
from .._utils.stages import ALL_TOKS, Stage
from ..encoding.pruning import check_pruning, prune, whole_weights
from ..encoding.terms import MODES, Toks, to_toks
from ..encoding.texts import check_texts

# Documents that PyTerrier's indexing pipelines hand over at a time, by the stage's `batch_size` (else 100): the encoder
# sorts so many by length, and tokenises while the model works.
_WINDOW = 2048
_ROWS = 128  # of toks at a time: a dict takes ten times its row's memory


class _Role(Stage):
    """What the three roles share; arguments are kept as given, ``None`` is the factory's.

    ``splade`` is the factory, a :class:`.encoder.Splade`.
    """

    splade: Any
    verbose: bool | None
    text_field: str | None = None
    _batch_size: int | None

    @property
    def batch_size(self) -> int:
        """Texts per batch at most."""
        return self._batch_size or self.splade.batch_size

    def _maker_and_arguments(self) -> tuple[Any, dict[str, tuple[Any, Any]]]:
        maker, arguments = super()._maker_and_arguments()
        return maker, {**arguments, "batch_size": (self._batch_size, None)}

    @property
    def _field(self) -> str:
        return self.splade.text_field if self.text_field is None else self.text_field

    def _encode(self, texts: list[Any], unit: str, column: str, ids: list[Any]) -> tuple[np.ndarray, csr_matrix]:
        """(number of its vector for each text, vectors of the distinct texts)."""
        name = "qid" if column == "query" else "docno"
        texts = check_texts(texts, f"{self!r}: row {{0}} of column {column!r} ({name} {{1}})", ids)
        codes, unique = pd.factorize(np.array(texts, dtype=object))
        return codes, self.splade._encode(unique.tolist(), self._batch_size, self.verbose, unit)


class _Encoder(_Role):
    """What the two stages that make toks share."""

    def __init__(
        self,
        splade: Any,
        *,
        batch_size: int | None = None,
        scale: float = 1.0,
        terms: str = "safe",
        verbose: bool | None = None,
        max_terms: int | None = None,
        min_weight: float = 0.0,
    ) -> None:
        self.splade, self.verbose = splade, verbose
        self._batch_size = check_integer("batch_size", batch_size, optional=True)
        self.scale = check_number("scale", scale)
        self.terms = check_choice("terms", terms, MODES)
        self.max_terms, self.min_weight = check_pruning(max_terms, min_weight)

    def _toks(self, codes: np.ndarray, vectors: csr_matrix) -> Iterator[Toks]:
        """``{term: weight}`` of the vectors with these numbers, each a dict of its own, some at a time."""
        terms = self.splade.term_map(self.terms)
        vocab = f"{terms.fingerprint}:{self.scale:g}"
        for start in range(0, len(codes), _ROWS):
            rows = vectors[codes[start : start + _ROWS]]
            yield from to_toks(terms.terms, rows.indptr, rows.indices, rows.data, vocab=vocab)


class SpladeDocEncoder(_Encoder):
    """Documents to ``toks``; made by :meth:`Splade.doc_encoder`."""

    _call, _label = "doc_encoder", "SPLADE documents"

    def __init__(
        self,
        splade: Any,
        *,
        text_field: str | None = None,
        batch_size: int | None = None,
        scale: float = 100,
        terms: str = "safe",
        verbose: bool | None = None,
        max_terms: int | None = None,
        min_weight: float = 0.0,
    ) -> None:
        super().__init__(
            splade, batch_size=batch_size, scale=scale, terms=terms, verbose=verbose, max_terms=max_terms,
            min_weight=min_weight,
        )  # fmt: skip
        self.text_field = text_field

    @property
    def batch_size(self) -> int:
        """Documents that an indexing pipeline hands over at a time."""
        return self._batch_size or _WINDOW

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add ``toks`` to a frame with ``docno`` and the text column; rows and other columns stay."""
        with pt.validate.any(inp, context=self) as v:
            v.document_frame(extra_columns=[self._field])
            v.columns(includes=["docno", self._field])
        return inp.assign(toks=_column(self._whole(inp[self._field].tolist(), inp["docno"].tolist()), inp))

    def transform_iter(self, inp: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        """The same over dicts, without a frame in between: what indexing pipelines call."""
        records = list(inp)
        for position, record in enumerate(records):
            if not isinstance(record, Mapping) or not {"docno", self._field} <= record.keys():
                raise ValueError(
                    f"document {position} must be a dict with docno and {self._field} for {self!r}, got {record!r:.120}"
                )
        whole = self._whole([record[self._field] for record in records], [record["docno"] for record in records])
        for record, toks in zip(records, whole, strict=True):
            yield {**record, "toks": toks}

    def _whole(self, texts: list[Any], docnos: list[Any]) -> Iterator[Toks]:
        """Toks of each text, of whole weights >= 1."""
        if texts:
            codes, vectors = self._encode(texts, "doc", self._field, docnos)
            yield from self._toks(codes, whole_weights(prune(vectors, self.max_terms, self.min_weight), self.scale))


class SpladeQueryEncoder(_Encoder):
    """Queries to ``query_toks``; made by :meth:`Splade.query_encoder`."""

    _call, _label = "query_encoder", "SPLADE queries"

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Add ``query_toks`` to a frame with ``qid`` and ``query``; rows and other columns stay.

        With ``max_terms`` or ``min_weight``, ``query_toks_all`` has all terms.
        """
        with pt.validate.any(inp, context=self) as v:
            v.query_frame(extra_columns=["query"])
            v.columns(includes=["qid", "query"])
        pruned = self.max_terms is not None or self.min_weight > 0
        if not len(inp):
            return inp.assign(**dict.fromkeys(["query_toks", ALL_TOKS][: 1 + pruned], _column([], inp)))
        codes, vectors = self._encode(inp["query"].tolist(), "query", "query", inp["qid"].tolist())
        inp = inp.drop(columns=ALL_TOKS, errors="ignore")  # of an encoder before this one: scorers would take it
        few = prune(vectors, self.max_terms, self.min_weight)
        wanted = {"query_toks": few, ALL_TOKS: vectors} if pruned else {"query_toks": few}
        exact = {name: kept.astype(np.float64) * self.scale for name, kept in wanted.items()}
        return inp.assign(**{name: _column(self._toks(codes, kept), inp) for name, kept in exact.items()})


class SpladeScorer(_Role):
    """Results to scores; made by :meth:`Splade.scorer`."""

    _call, _label = "scorer", "SPLADE scorer"

    def __init__(
        self,
        splade: Any,
        *,
        text_field: str | None = None,
        batch_size: int | None = None,
        verbose: bool | None = None,
    ) -> None:
        self.splade, self.text_field, self.verbose = splade, text_field, verbose
        self._batch_size = check_integer("batch_size", batch_size, optional=True)

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Score each (query, text) pair by the dot product of its vectors, and rank per query."""
        pt.validate.result_frame(inp, extra_columns=["query", self._field], context=self)
        scores = np.zeros(len(inp))
        if len(inp):
            query_codes, queries = self._encode(inp["query"].tolist(), "query", "query", inp["qid"].tolist())
            codes, documents = self._encode(inp[self._field].tolist(), "doc", self._field, inp["docno"].tolist())
            for start in range(0, len(inp), 4096):  # bounds the gathered rows
                part = slice(start, start + 4096)
                product = queries[query_codes[part]].multiply(documents[codes[part]])
                scores[part] = np.asarray(product.sum(axis=1, dtype=np.float64)).ravel()
        return pt.model.add_ranks(inp.assign(score=scores))


def _column(values: Iterable[Any], frame: pd.DataFrame) -> pd.Series:
    """An object column that fits the frame's index, also when it is empty."""
    return pd.Series(list(values), index=frame.index, dtype=object)
