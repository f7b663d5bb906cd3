"""The one way out: vectors of a folder or of an index, into the format of another engine."""

from __future__ import annotations

import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..._utils.checks import check_choice, check_number
from ..._utils.paths import expand
from ..rescoring import check_query
from ..vectors.base import SparseVectors

if TYPE_CHECKING:
    import pandas as pd

#: name -> (module, whether weights are rounded to units)
FORMATS = {
    "anserini": ("anserini", True),
    "ciff": ("ciff", True),
    "opensearch": ("opensearch", False),
    "lsr-benchmark": ("lsr_benchmark", False),
}


def export(
    vectors: SparseVectors | Any,
    path: str | os.PathLike[str],
    format: str,
    *,
    scale: float | None = None,
    queries: pd.DataFrame | None = None,
) -> Path:
    """Write document vectors, and queries where given, for another engine; whole or not at all.

    Args:
        vectors: ``open_vectors(path)``, or an index (as it holds the weights: rounded).
        path: what is written: a folder; with ``"ciff"`` a file.
        format: ``"anserini"`` (JsonVectorCollection), ``"ciff"`` (Common Index File Format), ``"opensearch"``
            (OpenSearch and Elasticsearch: bulk lines, mappings, query bodies), ``"lsr-benchmark"`` (its embeddings).
        scale: units per weight in the formats with whole weights (anserini, ciff); default: the index's, else 100.
            The other formats hold the weights themselves.
        queries: a frame with qid and query_toks, as ``splade.query_encoder()`` makes it (not with ``"ciff"``).

    Returns:
        the path.

    Raises:
        ValueError: an unknown format, a scale or queries where the format has none, or queries of another vocabulary or
            scaled already.
        TypeError: not vectors.
        FileExistsError: something is at the path.
    """
    check_choice("format", format, sorted(FORMATS))
    if not isinstance(vectors, SparseVectors):
        if not hasattr(vectors, "vectors"):
            raise TypeError(f"vectors must be open_vectors(path) or an index, got {type(vectors).__name__}")
        vectors = vectors.vectors()
    name, rounded = FORMATS[format]
    options: dict[str, Any] = {}
    if rounded:
        options["scale"] = vectors.quantised or 100.0 if scale is None else check_number("scale", scale)
    elif scale is not None:
        raise ValueError(f"format {format!r} holds the weights themselves: leave scale out, got {scale!r}")
    if queries is not None:
        if format == "ciff":
            raise ValueError("format 'ciff' holds no queries: leave queries out")
        missing = {"qid", "query_toks"} - set(queries.columns)
        if missing:
            raise ValueError(f"queries must have qid and query_toks, got {list(queries.columns)}")
        for qid, toks in zip(queries["qid"], queries["query_toks"], strict=True):
            check_query(toks, qid, vectors.vocabulary)
        options["queries"] = queries
    target = expand(path)
    importlib.import_module(f".{name}", __package__).write(vectors, target, **options)
    return target
