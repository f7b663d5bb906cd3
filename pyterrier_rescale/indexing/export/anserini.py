"""Anserini's JsonVectorCollection: a JSON object per line, whole weights.

Index with ``-collection JsonVectorCollection -impact -pretokenized``; search the queries with ``-topicReader TsvString
-impact -pretokenized``: Lucene's impact score is then the dot product of the rounded weights, scale x scale of it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from ..._utils.paths import whole_folder

if TYPE_CHECKING:
    import pandas as pd

    from ..vectors.base import SparseVectors

_DOCUMENTS_PER_FILE = 250_000  # Anserini indexes files in parallel


def write(vectors: SparseVectors, path: Path, *, scale: float, queries: pd.DataFrame | None = None) -> None:
    """Write ``docs-00000.jsonl``, ... below ``corpus``, and ``queries.tsv`` (weights as repetitions)."""
    with whole_folder(path) as folder:
        (folder / "corpus").mkdir()
        out = None
        for number, document in enumerate(vectors.documents(scale=scale)):
            if number % _DOCUMENTS_PER_FILE == 0:
                if out is not None:
                    out.close()
                name = f"docs-{number // _DOCUMENTS_PER_FILE:05d}.jsonl"
                out = open(folder / "corpus" / name, "w", encoding="utf-8", newline="\n")  # noqa: SIM115
            line = {"id": document["docno"], "contents": "", "vector": document["toks"]}
            out.write(json.dumps(line, ensure_ascii=False) + "\n")
        if out is not None:
            out.close()
        if queries is not None:
            with open(folder / "queries.tsv", "w", encoding="utf-8", newline="\n") as lines:
                for qid, toks in zip(queries["qid"], queries["query_toks"], strict=True):
                    words = (term for term, weight in toks.items() for _ in range(round(weight * scale)))
                    lines.write(f"{qid}\t{' '.join(words)}\n")
