"""Stages that read candidates' vectors, with neither a model nor a text: re-scoring, and pseudo-relevance feedback."""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt
from scipy.sparse import csr_matrix

from .._utils.checks import check_choice, check_integer, check_share
from .._utils.stages import ALL_TOKS, Stage
from ..encoding.terms import Toks
from .generation import Generation
from .intake import query_weights

_TOKS = "query_toks"


class VectorScorer(Stage):
    """Results with ``query_toks`` to scores: dot products with the candidates' vectors; made by ``.scorer()``.

    Where the query encoder kept only some terms (``max_terms``, ``min_weight``) for a quick first stage, its column
    ``query_toks_all`` is what is scored with.
    """

    _call, _label = "scorer", "vector scorer"

    def __init__(self, vectors: Any) -> None:
        self.vectors = vectors

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """Score each row, and rank per query; other columns stay.

        Raises:
            KeyError: a candidate that is not among the vectors.
            ValueError, TypeError: see ``query_weights``; or query weights of several encoders.
        """
        pt.validate.columns(inp, includes=["qid", "docno", _TOKS], context=self)
        scores = self.vectors.read(lambda vectors: _scores(inp, vectors)) if len(inp) else np.zeros(0)
        return pt.model.add_ranks(inp.assign(score=scores))


class VectorFeedback(Stage):
    r"""Results to queries with new ``query_toks``, as RM3 makes them; made by ``.feedback()``.

    With :math:`D` the ``fb_docs`` best documents of a query :math:`q`, vectors :math:`d`, scores :math:`s_d`:

    .. math:: r_v = \sum_{d \in D} p_d \, d_v / \lVert d \rVert_1 , \qquad
              q'_v = (1 - \lambda) \, q_v / \lVert q \rVert_1 + \lambda \, r_v / \lVert r \rVert_1

    where :math:`p_d` is the document's share of the scores (``weighting="score"``) or their softmax, and :math:`r`
    keeps its ``fb_terms`` heaviest terms. The new weights sum to one. (Abdul-Jaleel et al., TREC 2004; of its two
    conventions :math:`\lambda` is the share of the feedback.)
    """

    _call, _label = "feedback", "vector feedback"

    def __init__(
        self, vectors: Any, fb_docs: int = 10, fb_terms: int = 20, fb_lambda: float = 0.5, *, weighting: str = "score"
    ) -> None:
        self.vectors = vectors
        self.fb_docs = check_integer("fb_docs", fb_docs)
        self.fb_terms = check_integer("fb_terms", fb_terms)
        self.fb_lambda = check_share("fb_lambda", fb_lambda)
        self.weighting = check_choice("weighting", weighting, ("score", "softmax"))

    def transform(self, inp: pd.DataFrame) -> pd.DataFrame:
        """One row per query, in the order of their first rows, with the columns of queries (``q...``) only.

        ``query_toks_0`` has the weights from before, all of them (``query_toks_all`` goes into it); those that were in
        ``query_toks_0`` move to ``query_toks_1``, as ``pt.model.push_queries`` does with queries.

        Raises:
            KeyError: a document that is not among the vectors.
            ValueError, TypeError: as for ``VectorScorer``; or scores that are no numbers >= 0.
        """
        pt.validate.columns(inp, includes=["qid", "docno", "score", _TOKS], context=self)
        kept = [name for name in inp.columns if name in pt.model.query_columns(inp) and name != ALL_TOKS]
        groups = list(inp.groupby("qid", sort=False))
        old = [_toks(results) for _, results in groups]
        new = self.vectors.read(lambda vectors: [self._expanded(*group, vectors) for group in groups]) if groups else []
        queries = inp.drop_duplicates("qid")[kept].drop(columns=_TOKS).reset_index(drop=True)
        queries = queries.rename(
            columns=lambda name: re.sub(rf"^{_TOKS}_(\d+)$", lambda found: f"{_TOKS}_{int(found[1]) + 1}", name)
        )
        return queries.assign(**{f"{_TOKS}_0": pd.Series(old, dtype=object), _TOKS: pd.Series(new, dtype=object)})

    def _expanded(self, qid: Any, results: pd.DataFrame, vectors: Generation) -> Toks:
        """The new query; heaviest term first, equal weights by term."""
        toks = _toks(results)
        query = query_weights(toks, qid, vectors.content["fingerprint"])
        best = results.sort_values("score", ascending=False, kind="stable").head(self.fb_docs)
        shares = best["score"].to_numpy(dtype=float)
        finite = np.isfinite(shares).all()
        if self.weighting == "softmax" and finite:
            shares = np.exp(shares - shares.max())
        if not finite or shares.min() < 0 or not shares.sum():
            raise ValueError(
                f"query {qid!r}: scores must be finite numbers >= 0, and one of them > 0, got {shares.tolist()}; "
                'feedback(weighting="softmax") takes negative ones, too'
            )
        rows = _rows(vectors, best["docno"])
        lengths = np.asarray(rows.sum(axis=1)).ravel()
        relevance = rows.T @ np.divide(shares / shares.sum(), lengths, out=np.zeros(len(best)), where=lengths > 0)
        columns = np.flatnonzero(relevance)
        found = _heaviest_first(dict(zip(vectors.terms[columns].tolist(), relevance[columns].tolist(), strict=True)))
        mixed: dict[str, float] = {}
        for part, share in (query, 1 - self.fb_lambda), (dict(islice(found.items(), self.fb_terms)), self.fb_lambda):
            total = sum(part.values()) or 1.0
            for term, weight in part.items():
                mixed[term] = mixed.get(term, 0.0) + share * weight / total
        weights = _heaviest_first({term: weight for term, weight in mixed.items() if weight > 0})
        return Toks(weights.items(), getattr(toks, "vocab", None))


def _heaviest_first(weights: Mapping[str, float]) -> dict[str, float]:
    return dict(sorted(weights.items(), key=lambda pair: (-pair[1], pair[0])))


def _scores(inp: pd.DataFrame, vectors: Generation) -> np.ndarray:
    """The dot product of each row's query and document, (len(inp),)."""
    scores = np.zeros(len(inp))
    for qid, places in inp.groupby("qid", sort=False).indices.items():
        results, query = inp.iloc[places], np.zeros(len(vectors.terms))
        known = vectors.known(query_weights(_toks(results), qid, vectors.content["fingerprint"]))
        query[list(known)] = list(known.values())
        scores[places] = _rows(vectors, results["docno"]) @ query
    return scores


def _rows(vectors: Generation, docnos: pd.Series) -> csr_matrix:
    """Vectors of documents, (n, V), float64; rounded ones exactly, not float32's nearest."""
    rows, scale = vectors.rows(docnos).astype(np.float64), vectors.content["scale"]
    if scale:
        rows.data = np.rint(rows.data * scale) / scale
    return rows


def _toks(results: pd.DataFrame) -> Any:
    """The weights of the one query of some results: all of them, where a first stage got some."""
    first, *others = results[ALL_TOKS if ALL_TOKS in results.columns else _TOKS]
    if any(toks is not first and toks != first for toks in others):
        raise ValueError(
            f"query {results['qid'].iloc[0]!r}: its results have different query_toks, as after A | B or A + B of two "
            "encoders: encode the query again, (A | B) >> splade.query_encoder() >> index.scorer()"
        )
    return first
