"""Pseudo-relevance feedback: queries expanded by the terms of the documents found first. No model, no text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pyterrier as pt

from ..._utils.checks import check_choice, check_integer, check_share, is_number
from ..._utils.stages import ALL_TOKS
from ...encoding.terms import Toks
from .stage import VectorStage

_TOKS = "query_toks"


class VectorFeedback(VectorStage):
    r"""Results to queries with new ``query_toks``, as RM3 makes them; made by ``.feedback()``.

    With :math:`D` the ``fb_docs`` best documents of a query :math:`q`, vectors :math:`d`, scores :math:`s_d`:

    .. math:: r_v = \sum_{d \in D} p_d \, d_v / \lVert d \rVert_1 , \qquad
              q'_v = (1 - \lambda) \, q_v / \lVert q \rVert_1 + \lambda \, r_v / \lVert r \rVert_1

    where :math:`p_d` is the document's share of the scores (``weighting="score"``) or their softmax, and :math:`r`
    keeps its ``fb_terms`` heaviest terms. The new weights sum to one. (Abdul-Jaleel et al., TREC 2004; of its two
    conventions :math:`\lambda` is the share of the feedback.)
    """

    _call, _label = "feedback", "vector feedback"
    # The numbers are always shown: tables of feedback are read by them.
    _defaults = {"fb_docs": None, "fb_terms": None, "fb_lambda": None, "weighting": "score"}

    def __init__(
        self,
        vectors: Any,
        fb_docs: int = 10,
        fb_terms: int = 20,
        fb_lambda: float = 0.5,
        *,
        weighting: str = "score",
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
            ValueError, TypeError: scores or query weights that are no fitting numbers, or of another vocabulary.
        """
        pt.validate.columns(inp, includes=["qid", "docno", "score", _TOKS], context=self)
        self._look_again()
        kept = [name for name in inp.columns if name in pt.model.query_columns(inp) and name != ALL_TOKS]
        best = inp.sort_values("score", ascending=False, kind="stable") if len(inp) else inp
        best = best.groupby("qid", sort=False).head(self.fb_docs)
        documents = dict(list(best.groupby("qid", sort=False)))
        first = inp.drop_duplicates("qid")
        old = first[ALL_TOKS if ALL_TOKS in inp.columns else _TOKS]
        new = [self._expanded(toks, documents[qid], qid) for toks, qid in zip(old, first["qid"], strict=True)]
        out = first[kept].drop(columns=_TOKS).rename(columns=_pushed(kept))
        columns = {f"{_TOKS}_0": old, _TOKS: pd.Series(new, index=first.index, dtype=object)}
        return out.assign(**columns).reset_index(drop=True)

    def _expanded(self, toks: Any, documents: pd.DataFrame, qid: Any) -> Toks:
        query = self._checked(toks, qid)
        negative = [term for term, weight in query.items() if weight < 0]
        if negative:
            raise ValueError(f"query {qid!r}: the weight of {negative[0]!r} must be >= 0, got {query[negative[0]]!r}")
        counts, columns, weights = self._entries(self._places(documents["docno"]))
        of = np.repeat(np.arange(len(counts)), counts)
        lengths = np.bincount(of, weights, minlength=len(counts))
        shares = self._shares(documents, qid)
        columns, place = np.unique(columns, return_inverse=True)
        relevance = np.bincount(place, shares[of] * weights / lengths[of], minlength=len(columns))
        terms = self.vectors.terms[columns]
        heaviest = sorted(zip(terms.tolist(), relevance.tolist(), strict=True), key=_heaviest)[: self.fb_terms]
        mixed: dict[str, float] = {}
        for part, share in ((query, 1 - self.fb_lambda), (dict(heaviest), self.fb_lambda)):
            total = sum(part.values())
            for term, weight in part.items():
                mixed[term] = mixed.get(term, 0.0) + (share * weight / total if total else 0.0)
        # heaviest first, equal weights by term: the same whatever numbers an engine gives to terms
        return Toks(sorted(((t, w) for t, w in mixed.items() if w > 0), key=_heaviest), getattr(toks, "vocab", None))

    def _shares(self, documents: pd.DataFrame, qid: Any) -> np.ndarray:
        """What each document counts for, (n,), in sum 1."""
        wrong = [score for score in documents["score"] if not is_number(score)]
        if wrong:
            raise ValueError(f"query {qid!r}: a score must be a finite number, got {wrong[0]!r}")
        scores = documents["score"].to_numpy(dtype=float)
        if self.weighting == "softmax":
            scores = np.exp(scores - scores.max())
        elif scores.min() < 0 or not scores.sum():
            raise ValueError(
                f"query {qid!r}: scores must be >= 0, and one of them > 0, to be shares, got {scores.tolist()}: "
                'use feedback(weighting="softmax"), which takes all'
            )
        return scores / scores.sum()

def _heaviest(pair: tuple[str, float]) -> tuple[float, str]:
    return -pair[1], pair[0]


def _pushed(columns: list[str]) -> Mapping[str, str]:
    """New names of former weights: ``query_toks_0`` becomes ``query_toks_1``, and so on."""
    number, names = 0, {}
    while f"{_TOKS}_{number}" in columns:
        names[f"{_TOKS}_{number}"] = f"{_TOKS}_{number + 1}"
        number += 1
    return names
