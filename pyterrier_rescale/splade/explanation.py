"""Why a document gets its score: the terms that query and document share, each with its contribution."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from ..encoding.texts import check_texts

_SHOWN = 15


class Explanation(pd.DataFrame):
    """Contributions of terms to one score, the largest first; a frame that notebooks draw as bars.

    Columns: ``term`` (readable), ``query_weight``, ``document_weight``, ``contribution`` (their product; the column
    sums to the score), ``in_query`` and ``in_document``: whether the term is one of the text's own tokens. Where it is
    not, the encoder has added it (an expansion).
    """

    @property
    def score(self) -> float:
        """The dot product: the sum of the contributions."""
        return float(self["contribution"].sum())

    def _repr_html_(self) -> str:
        """The heaviest shared terms, their contributions as bars."""
        shared = pd.DataFrame(self[self["contribution"] > 0])
        told = f"score {self.score:.3f}, the sum of the contributions"
        if len(shared) > _SHOWN:
            told += f"; {_SHOWN} of {len(shared)} shared terms are shown"
        style = shared.head(_SHOWN).style.format(precision=2, escape="html").hide(axis="index").set_caption(told)
        return style.bar(subset="contribution", color="#1b6ca8", vmin=0)._repr_html_()


def explain(splade: Any, query: str, text: str) -> Explanation:
    """The query's terms with their weights on both sides, and what each adds to the score.

    Returns:
        A row per active term of the query, by contribution, then by the query's weight.

    Raises:
        ValueError: if ``query`` or ``text`` is not one string.
    """
    check_texts([query, text])
    query_row, document_row = splade.encode_queries([query]), splade.encode_docs([text])
    ids, query_weights = query_row.indices, query_row.data.astype(np.float64)
    document_weights = np.asarray(document_row[:, ids].todense(), dtype=np.float64).ravel()
    terms, tokenizer = splade.term_map(), splade.encoder.tokenizer
    in_query, in_document = _tokens(query, splade.queries_encoder), _tokens(text, splade.encoder)
    frame = pd.DataFrame({
        "term": [terms.readable(int(i), tokenizer) for i in ids],
        "query_weight": query_weights,
        "document_weight": document_weights,
        "contribution": query_weights * document_weights,
        "in_query": [int(i) in in_query for i in ids],
        "in_document": [int(i) in in_document for i in ids],
    })
    order = np.lexsort((ids, -frame["query_weight"], -frame["contribution"]))
    return Explanation(frame.iloc[order].reset_index(drop=True))


def _tokens(text: str, encoder: Any) -> set[int]:
    """The term ids of a text's own tokens."""
    ids = encoder.tokenizer(text, truncation=True, max_length=encoder.max_length)["input_ids"]
    own = set(ids) - set(encoder.tokenizer.all_special_ids)
    return own if encoder.folding is None else {int(encoder.folding.representatives[i]) for i in own}
