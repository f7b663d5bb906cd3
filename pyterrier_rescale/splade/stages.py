"""The three roles of a Splade as PyTerrier stages: documents to toks, queries to query_toks, results to scores."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyterrier as pt
from scipy.sparse import csr_matrix

from .._utils.checks import check_choice, check_integer, check_number
from .._utils.stages import ALL_TOKS, Stage
from ..encoding.pruning import check_pruning, prune, whole_weights
from ..encoding.terms import MODES, Toks, to_toks
from ..encoding.texts import check_texts


@dataclass(kw_only=True, eq=False, repr=False)
class _Role(Stage):
    """What the three roles share; what is ``None`` is the factory's, a :class:`.encoder.Splade`."""

    splade: Any = field(kw_only=False)
    batch_size: int | None = None
    verbose: bool | None = None

    text_field: ClassVar[str | None] = None
    # Documents that PyTerrier hands over at a time where no batch size is given, else 100; they are sorted by length.
    _handed_over: ClassVar[int | None] = None

    def __post_init__(self) -> None:
        """Keep the batch size as given for the encoder; PyTerrier reads ``batch_size``."""
        self._batch_size = check_integer("batch_size", self.batch_size, optional=True)
        self.batch_size = self._batch_size or self._handed_over or self.splade.batch_size

    def _maker_and_arguments(self) -> tuple[Any, dict[str, tuple[Any, Any]]]:
        maker, arguments = super()._maker_and_arguments()
        return maker, {**arguments, "batch_size": (self._batch_size, None)}

    @property
    def _field(self) -> str:
        return self.splade.text_field if self.text_field is None else self.text_field

    def _encode(self, texts: list[Any], unit: str, column: str, ids: list[Any]) -> tuple[np.ndarray, csr_matrix]:
        """(number of its vector for each text, vectors of the distinct texts)."""
        name = "qid" if column == "query" else "docno"
        stage = repr(self).replace("{", "{{").replace("}", "}}")  # the encoder's path may hold some
        texts = check_texts(texts, f"{stage}: row {{0}} of column {column!r} ({name} {{1}})", ids)
        codes, unique = pd.factorize(np.array(texts, dtype=object))
        return codes, self.splade._encode(unique.tolist(), self._batch_size, self.verbose, unit)


@dataclass(kw_only=True, eq=False, repr=False)
class _Encoder(_Role):
    """What the two stages that make toks share."""

    scale: float = 1.0
    terms: str = "safe"
    max_terms: int | None = None
    min_weight: float = 0.0

    def __post_init__(self) -> None:
        """Check the arguments."""
        super().__post_init__()
        self.scale = check_number("scale", self.scale)
        check_choice("terms", self.terms, MODES)
        self.max_terms, self.min_weight = check_pruning(self.max_terms, self.min_weight)

    def _toks(self, codes: np.ndarray, vectors: csr_matrix) -> Iterator[Toks]:
        """``{term: weight}`` of the vectors with these numbers, each a dict of its own, some at a time."""
        terms = self.splade.term_map(self.terms)
        return to_toks(terms.terms, vectors[codes], f"{terms.fingerprint}:{self.scale:g}")


@dataclass(kw_only=True, eq=False, repr=False)
class SpladeDocEncoder(_Encoder):
    """Documents to ``toks``; made by :meth:`Splade.doc_encoder`."""

    _call, _label, _handed_over = "doc_encoder", "SPLADE documents", 2048

    text_field: str | None = None
    scale: float = 100

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


@dataclass(kw_only=True, eq=False, repr=False)
class SpladeScorer(_Role):
    """Results to scores; made by :meth:`Splade.scorer`."""

    _call, _label = "scorer", "SPLADE scorer"

    text_field: str | None = None

    @property
    def fingerprint(self) -> str:
        """The encoder's: what ``training.score`` tells teachers apart by."""
        return self.splade.fingerprint

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
