"""The one way out: vectors of a folder or of an index, into the format of another engine."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..._utils.checks import check_choice, check_number
from ..._utils.files import expand, whole_folder
from ..queries import query_weights
from . import ciff, opensearch, toolkits

if TYPE_CHECKING:
    import pandas as pd


#: name -> (writer, what it takes beside vectors and path, whether it writes a folder)
FORMATS: dict[str, tuple[Callable[..., None], set[str], bool]] = {
    "anserini": (toolkits.write_anserini, {"scale", "queries"}, True),
    "ciff": (ciff.write, {"scale"}, False),
    "lsr-benchmark": (toolkits.write_lsr_benchmark, {"queries"}, True),
    "opensearch": (opensearch.write, {"queries"}, True),
}


def export(
    vectors: Any,
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
        FileExistsError: something is at the path.
    """
    write, takes, is_folder = FORMATS[check_choice("format", format, FORMATS)]
    options = {name: value for name, value in (("scale", scale), ("queries", queries)) if value is not None}
    for name in options.keys() - takes:
        raise ValueError(f"format {format!r} takes no {name}: leave it out")
    path = expand(path)
    if "scale" in takes:
        options["scale"] = vectors.scale or 100.0 if scale is None else check_number("scale", scale)
    if queries is not None:
        pairs = zip(queries["qid"].astype(str), queries["query_toks"], strict=True)
        options["queries"] = [(qid, query_weights(toks, qid, vectors.vocabulary)) for qid, toks in pairs]
    with whole_folder(path) if is_folder else nullcontext(path) as target:
        write(vectors, target, **options)
    return path
