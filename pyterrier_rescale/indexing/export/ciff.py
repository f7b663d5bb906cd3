"""The Common Index File Format (Lin et al., 2020): a file of protocol buffers, by the package ``ciff-toolkit``.

A header; then for each term, in the order of its bytes, its postings (gaps of document numbers, whole weights); then
each document's docno and length (the sum of its weights).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._utils.files import sync
from ...encoding.pruning import whole_weights
from . import Source

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

_POSTINGS = 100_000_000  # held in memory at a time (1.2 GB); the vectors are read once for each so many
_LARGEST = 2**31 - 1


def write(source: Source, path: Path) -> None:
    """Write one file; gzip-compressed if its name ends in ``.gz``."""
    try:
        from ciff_toolkit.ciff_pb2 import DocRecord, Header
        from ciff_toolkit.write import CiffWriter
    except ImportError as error:
        raise ImportError(f"format 'ciff' needs ciff-toolkit: pip install pyterrier-rescale[ciff] ({error})") from error
    if path.exists():
        raise FileExistsError(f"{str(path)!r} exists already: choose another path")
    frequencies, lengths = np.zeros(len(source.terms), dtype=np.int64), []
    for rows in _blocks(source):
        frequencies += np.bincount(rows.indices, minlength=len(frequencies))
        lengths += np.asarray(rows.sum(axis=1)).ravel().tolist()
    if max(lengths, default=0) > _LARGEST:
        raise ValueError(f"CIFF sums a document's weights in 31 bits: scale must be less than {source.scale:g}")
    by_bytes = sorted(range(len(frequencies)), key=lambda column: source.terms[column].encode())
    order = np.array([column for column in by_bytes if frequencies[column]], dtype=np.int64)
    header = Header(
        version=1, num_postings_lists=len(order), total_postings_lists=len(order),
        num_docs=len(lengths), total_docs=len(lengths),
        total_terms_in_collection=sum(lengths), average_doclength=sum(lengths) / max(1, len(lengths)),
        description=f"pyterrier-rescale: term weights times {source.scale:g}, rounded",
    )  # fmt: skip
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        whole = Path(folder, path.name)
        with CiffWriter(whole) as writer:
            writer.write_header(header)
            writer.write_postings_lists(_postings(source, order, frequencies))
            writer.write_documents(
                DocRecord(docid=number, collection_docid=docno, doclength=length)
                for number, (docno, length) in enumerate(zip(source.vectors.docnos, lengths, strict=True))
            )
        sync(whole)
        os.replace(whole, path)


def _postings(source: Source, order: np.ndarray, frequencies: np.ndarray) -> Iterator[Any]:
    from ciff_toolkit.ciff_pb2 import Posting, PostingsList
    from scipy.sparse import vstack

    passes = np.cumsum(frequencies[order]) // _POSTINGS
    for number in np.unique(passes):
        columns = order[passes == number]
        inverted = vstack([rows[:, columns] for rows in _blocks(source)]).tocsc()
        for place, column in enumerate(columns):
            part = slice(*inverted.indptr[place : place + 2])
            gaps, weights = np.diff(inverted.indices[part], prepend=0).tolist(), inverted.data[part].tolist()
            postings = [Posting(docid=gap, tf=weight) for gap, weight in zip(gaps, weights, strict=True)]
            yield PostingsList(term=source.terms[column], df=len(weights), cf=sum(weights), postings=postings)


def _blocks(source: Source) -> Iterator[csr_matrix]:
    return (whole_weights(block.vectors, source.scale) for block in source.vectors.blocks())
