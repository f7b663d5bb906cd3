"""The two verbs of an index as PyTerrier's transformers: its indexer and its retriever."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

from ..._utils.checks import check_integer, is_number
from ..._utils.documents import as_documents
from ..._utils.progress import progress_bar
from ..._utils.stages import Stage
from ..vectors.base import SparseVectors
from .documents import parse_stamp
from .quantising import FINE_SCALE, check_bits


class EngineIndexer(Stage, pt.Indexer):
    """Writes documents into an index: all of them or, with an exception, none."""

    _maker, _call = "_index", "indexer"
    _defaults = {"mode": "create", "verbose": False, "made_from": None, "bits": None}

    def __init__(
        self,
        index: Any,
        *,
        mode: str = "create",
        verbose: bool = False,
        made_from: Mapping[str, Any] | None = None,
        bits: int | None = None,
        options: Mapping[str, Any] | None = None,
    ):
        if mode not in index.modes:
            raise ValueError(f"mode must be one of {list(index.modes)} with engine {index.engine!r}, got {mode!r}")
        if bits is not None and mode == "append":
            raise ValueError(f"bits must be None with mode='append', got {bits}: the index's weights stay as they are")
        self._index = index
        self.mode = mode
        self.verbose = verbose
        self.made_from = made_from
        self.bits = None if bits is None else check_bits(bits)
        self.options = dict(options or {})  # the engine's own

    def index(self, iter: Iterable[Mapping[str, Any]] | SparseVectors) -> Any:
        """Index documents with docno (str) and toks ({term: int >= 1}; other keys are ignored), or vectors.

        Vectors (`open_vectors(path)`, or `index.vectors()` of another index) are rounded at this index's scale.

        Returns:
            the index, which now holds them.

        Raises:
            ValueError, TypeError, KeyError: a document that cannot be indexed as it is; nothing is left at the path.
            FileExistsError: something is at the path already (and mode is "create"), or files that are not the index's.
        """
        made_from, scale = self.made_from, self._index.scale
        total = len(iter) if hasattr(iter, "__len__") else None
        if isinstance(iter, SparseVectors):
            # of an index that is added to, what is added is only a part
            if made_from is None and not (self.mode == "append" and self._index.built):
                made_from = iter.origin(None if self.bits else scale)
            scale = scale if self.bits is None else iter.quantised or FINE_SCALE
            iter = iter.documents(scale=scale)
        if self.verbose:
            iter = progress_bar(as_documents(iter), desc=f"indexing ({self._index.engine})", unit="d", total=total)
        return self._index.build(
            iter, mode=self.mode, made_from=made_from, bits=self.bits, scale=scale, options=self.options
        )

    def index_inputs(self) -> list[list[str]]:
        """The columns that documents need."""
        return [["docno", "toks"]]

    @property
    def _label(self) -> str:
        return f"{self._index.engine} indexer"

    def _arguments(self) -> list[tuple[str, Any, Any]]:
        return super()._arguments() + _own(self._index.indexer, self.options)


class EngineRetriever(Stage):
    """Ranks documents by the dot product of the query's weights and the documents' weights, both unscaled.

    Takes qid and query_toks ({term: weight >= 0}); keeps these and all other columns of the queries, in their order,
    and adds docno, score and rank (from 0). Equal scores are in docno order. Documents that share no term with the
    query are not returned, so a query without known terms has no rows. Each call answers from one index as a whole: the
    one that is at the path when the call begins. Threads may share a retriever.
    """

    _maker, _call = "index", "retriever"
    _defaults = {"num_results": 1000, "threads": 1, "verbose": False}

    def __init__(
        self,
        index: Any,
        num_results: int = 1000,
        *,
        threads: int = 1,
        verbose: bool = False,
        options: Mapping[str, Any] | None = None,
    ):
        num_results, threads = check_integer("num_results", num_results), check_integer("threads", threads)
        if threads > 1 and not index.concurrent:
            raise ValueError(f"threads must be 1 with engine {index.engine!r}, got {threads}")
        self.index = index
        self.num_results = num_results
        self.threads = threads
        self.verbose = verbose
        self.options = dict(options or {})  # the engine's own

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Retrieve for every row of a frame with qid and query_toks.

        Raises:
            FileNotFoundError: the index is not built, or not to its end.
            ValueError, TypeError: weights that are no numbers >= 0, or queries of another vocabulary or scale.
        """
        pt.validate.query_frame(inp, extra_columns=["query_toks"], context=self)
        inp = inp.drop(columns=["score", "rank"], errors="ignore")
        if not len(inp):
            return inp.assign(docno=pd.Series(dtype=str), score=pd.Series(dtype=float), rank=pd.Series(dtype=int))
        searcher = self.index.searcher()
        queries = [_query_weights(toks, qid) for qid, toks in zip(inp["qid"], inp["query_toks"], strict=True)]
        self._check_scale_and_vocabulary(inp["query_toks"], queries, searcher.meta)

        def progress(results: Iterable) -> Iterable:
            if not self.verbose:
                return results
            return progress_bar(results, desc=f"retrieving ({self.index.engine})", unit="q", total=len(queries))

        found = searcher.search_all(queries, self.num_results, self.threads, progress, **self.options)
        counts = np.array([len(n) for n, _ in found])
        out = inp.iloc[np.repeat(np.arange(len(inp)), counts)].reset_index(drop=True)
        out["docno"] = searcher.docnos.take(np.concatenate([n for n, _ in found]))
        out["score"] = np.concatenate([s for _, s in found])
        out["rank"] = np.concatenate([np.arange(c) for c in counts]) + pt.model.FIRST_RANK
        return out if len(out) else out.astype({"docno": str, "score": float, "rank": int})

    def _check_scale_and_vocabulary(
        self, query_toks: Iterable[Mapping], queries: list[dict[str, float]], meta: dict[str, Any]
    ) -> None:
        """Catch weights scaled twice and terms of another vocabulary: by themselves they only spoil the ranking."""
        stamps = {getattr(toks, "vocab", None): parse_stamp(toks) for toks in query_toks}
        known = meta["fingerprint"]
        for fingerprint, scale in filter(None, stamps.values()):
            if scale != 1:
                raise ValueError(
                    f"the queries were encoded at scale {scale:g}, but the retriever takes unscaled weights: "
                    "use query_encoder(scale=1)"
                )
            if known is not None and fingerprint != known:
                raise ValueError(
                    f"the queries were encoded with another vocabulary ({fingerprint}) than the documents of "
                    f"{self.index!r} ({known}): use the query encoder of the model that encoded the documents"
                )
        weights = [w for q in queries for w in q.values()] if None in stamps else []
        if meta["scale"] != 1 and weights and all(w >= 10 and w.is_integer() for w in weights):
            warnings.warn(
                f"all query weights are whole numbers of 10 and more: they look scaled, but {self.index!r} takes "
                "unscaled ones; use query_encoder(scale=1)",
                stacklevel=3,
            )

    def fuse_rank_cutoff(self, k: int) -> EngineRetriever:
        """`retriever % k` as one retriever of at most k results."""
        if k >= self.num_results:
            return self
        return EngineRetriever(self.index, k, threads=self.threads, verbose=self.verbose, options=self.options)

    @property
    def _label(self) -> str:
        return f"{self.index.engine} retriever"

    def _arguments(self) -> list[tuple[str, Any, Any]]:
        return super()._arguments() + _own(self.index.retriever, self.options)


def _query_weights(toks: Any, qid: Any) -> dict[str, float]:
    """The query's terms of weight > 0."""
    if not isinstance(toks, Mapping):
        raise TypeError(f"query_toks of query {qid!r} must be a dict of term -> weight, got {toks!r}")
    weights = {}
    for term, weight in toks.items():
        if not isinstance(term, str):
            raise TypeError(f"query {qid!r}: a term must be a str, got {term!r}")
        if not is_number(weight) or weight < 0:
            raise ValueError(
                f"query {qid!r}: a term's weight must be a finite number >= 0, got {weight!r} for {term!r}"
            )
        if weight > 0:
            weights[term] = float(weight)
    return weights


def _own(factory: Callable, options: Mapping[str, Any]) -> list[tuple[str, Any, Any]]:
    """(name, value, default) of an engine's own options, which its factory takes."""
    parameters = inspect.signature(factory).parameters
    return [(name, value, parameters[name].default) for name, value in options.items()]
