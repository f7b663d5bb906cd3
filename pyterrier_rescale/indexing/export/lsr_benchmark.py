"""lsr-benchmark's embedding folder: ``doc/doc-embeddings.npz`` (CSR arrays) and ``doc/doc-ids.txt``, queries alike.

Given as ``--embedding FOLDER`` to its retrieval scripts. Columns are numbers of terms, the same on both sides.
"""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..._utils.paths import whole_folder
from ..vectors.base import Block

if TYPE_CHECKING:
    import pandas as pd

    from ..vectors.base import SparseVectors


def write(vectors: SparseVectors, path: Path, *, queries: pd.DataFrame | None = None) -> None:
    """Write the documents' side, and the queries' where given, in bounded memory."""
    with whole_folder(path) as folder:
        lengths = [np.diff(block.vectors.indptr) for block in vectors.blocks()]
        _write_side(folder, "doc", vectors.blocks, lengths)
        if queries is not None:
            block = _query_block(queries, vectors.terms)
            _write_side(folder, "query", lambda: iter([block]), [np.diff(block.vectors.indptr)])


def _write_side(folder: Path, side: str, blocks, lengths: list[np.ndarray]) -> None:
    (folder / side).mkdir()
    indptr = np.concatenate([[0], np.cumsum(np.concatenate(lengths, dtype=np.int64))]) if lengths else np.zeros(1, int)
    postings = int(indptr[-1])
    with zipfile.ZipFile(folder / side / f"{side}-embeddings.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as out:
        _write_array(out, "data", np.float32, postings, (block.vectors.data for block in blocks()))
        _write_array(out, "indices", np.int32, postings, (block.vectors.indices for block in blocks()))
        _write_array(out, "indptr", np.int64, len(indptr), [indptr])
    with open(folder / side / f"{side}-ids.txt", "w", encoding="utf-8", newline="\n") as ids:
        for number, docno in enumerate(docno for block in blocks() for docno in block.docnos):
            ids.write(("\n" if number else "") + docno)


def _write_array(out: zipfile.ZipFile, name: str, dtype: type, length: int, parts: Iterable[np.ndarray]) -> None:
    """One array of an .npz file, part by part."""
    with out.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as file:
        header = {"descr": np.lib.format.dtype_to_descr(np.dtype(dtype)), "fortran_order": False, "shape": (length,)}
        np.lib.format.write_array_header_1_0(file, header)
        for part in parts:
            file.write(np.ascontiguousarray(part, dtype=dtype).tobytes())


def _query_block(queries: pd.DataFrame, terms: np.ndarray) -> Block:
    from scipy.sparse import csr_matrix

    columns = {term: number for number, term in enumerate(terms)}
    known = [{columns[t]: weight for t, weight in toks.items() if t in columns} for toks in queries["query_toks"]]
    indptr = np.cumsum([0, *map(len, known)])
    indices = [column for row in known for column in row]
    data = [weight for row in known for weight in row.values()]
    matrix = csr_matrix((np.array(data, dtype=np.float32), indices, indptr), shape=(len(queries), len(terms)))
    matrix.sort_indices()
    return Block(queries["qid"].astype(str).tolist(), matrix)
