"""Why a document gets its score: the terms that query and document share, each with its contribution."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from .interface import SparseEncoder

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
        """The heaviest terms as bars, in plain HTML."""
        largest = max(float(self["contribution"].max()) if len(self) else 0.0, 1e-12)
        rows = "".join(
            f"<tr><td>{html.escape(row.term)}{'' if row.in_query else ' <i>(query expansion)</i>'}"
            f"{'' if row.in_document else ' <i>(document expansion)</i>'}</td>"
            f"<td style='text-align:right'>{row.query_weight:.2f} &times; {row.document_weight:.2f}</td>"
            f"<td style='text-align:right'>{row.contribution:.2f}</td>"
            f"<td style='width:12em;text-align:left'><div style='background:#1b6ca8;height:.7em;"
            f"width:{100 * row.contribution / largest:.1f}%'></div></td></tr>"
            for row in self[self["contribution"] > 0].head(_SHOWN).itertuples()
        )
        left = int((self["contribution"] > 0).sum()) - _SHOWN
        more = f"<tr><td colspan='4'>and {left} more shared terms</td></tr>" if left > 0 else ""
        return (
            f"<table><caption>score {self.score:.3f}, the sum of the contributions</caption>"
            "<tr><th>term</th><th>query &times; document</th><th>contribution</th><th></th></tr>"
            f"{rows}{more}</table>"
        )


def explain(splade: SparseEncoder, query: str, text: str) -> Explanation:
    """The query's terms with their weights on both sides, and what each adds to the score.

    Returns:
        A row per active term of the query, by contribution, then by the query's weight.

    Raises:
        TypeError: if ``query`` or ``text`` is not one string.
    """
    for name, value in (("query", query), ("text", text)):
        if not isinstance(value, str):
            raise TypeError(f"{name} must be one string, got {type(value).__name__}: {value!r}"[:200])
    query_row, document_row = splade.encode_queries([query]), splade.encode_docs([text])
    ids, query_weights = query_row.indices, query_row.data.astype(np.float64)
    document_weights = np.asarray(document_row[:, ids].todense(), dtype=np.float64).ravel()
    terms, tokenizer = splade.term_map(), splade.encoder.tokenizer
    sides = (query, splade.queries_encoder), (text, splade.encoder)
    own = [_tokens(splade, value, side.max_length) for value, side in sides]
    frame = Explanation({
        "term": [terms.readable(int(i), tokenizer) for i in ids],
        "query_weight": query_weights,
        "document_weight": document_weights,
        "contribution": query_weights * document_weights,
        "in_query": [int(i) in own[0] for i in ids],
        "in_document": [int(i) in own[1] for i in ids],
    })
    order = np.lexsort((ids, -frame["query_weight"], -frame["contribution"]))
    return frame.iloc[order].reset_index(drop=True).pipe(Explanation)


def _tokens(splade: SparseEncoder, text: str, max_length: int) -> set[int]:
    encoder = splade.encoder
    ids = encoder.tokenizer(text, truncation=True, max_length=max_length)["input_ids"]
    own = set(ids) - set(encoder.tokenizer.all_special_ids)
    folding = splade.term_map().folding
    return own if folding is None else {int(folding.representatives[i]) for i in own}
