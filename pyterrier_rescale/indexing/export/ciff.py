"""The Common Index File Format (Lin et al., 2020): a file of protocol buffers, by the package ``ciff-toolkit``.

A header; then for each term, in the order of its bytes, its postings (gaps of document numbers, whole weights); then
each document's docno and length (the sum of its weights).
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from ..._utils.files import sync
from ..engines.exact import invert, read_inverted
from . import Source

_LARGEST = 2**31 - 1


def write(source: Source, path: Path) -> None:
    """Write one file; gzip-compressed if its name ends in ``.gz``."""
    try:
        import ciff_toolkit.write  # noqa: F401
    except ImportError as error:
        raise ImportError(f"format 'ciff' needs ciff-toolkit: pip install pyterrier-rescale[ciff] ({error})") from error
    if path.exists():
        raise FileExistsError(f"{str(path)!r} exists already: choose another path")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        whole = Path(folder, path.name)
        _write(source, whole)
        sync(whole)
        os.replace(whole, path)


def _write(source: Source, path: Path) -> None:
    from ciff_toolkit.ciff_pb2 import DocRecord, Header, Posting, PostingsList
    from ciff_toolkit.write import CiffWriter

    generation = source.vectors.open().at_scale(source.scale)
    invert(path.parent, generation)
    indptr, documents, weights = read_inverted(path.parent)
    lengths = np.concatenate([np.asarray(rows.sum(axis=1)).ravel() for rows in generation.whole_blocks()]).tolist()
    if max(lengths) > _LARGEST:
        raise ValueError(f"CIFF sums a document's weights in 31 bits: scale must be less than {source.scale:g}")
    columns = sorted(np.flatnonzero(np.diff(indptr)).tolist(), key=lambda column: source.terms[column].encode())

    def postings() -> Iterator[Any]:
        for column in columns:
            part = slice(indptr[column], indptr[column + 1])
            gaps, values = np.diff(documents[part], prepend=0).tolist(), weights[part].tolist()
            found = [Posting(docid=gap, tf=weight) for gap, weight in zip(gaps, values, strict=True)]
            yield PostingsList(term=source.terms[column], df=len(found), cf=sum(values), postings=found)

    with CiffWriter(path) as writer:
        writer.write_header(Header(
            version=1, num_postings_lists=len(columns), total_postings_lists=len(columns),
            num_docs=len(lengths), total_docs=len(lengths),
            total_terms_in_collection=sum(lengths), average_doclength=sum(lengths) / len(lengths),
            description=f"pyterrier-rescale: term weights times {source.scale:g}, rounded",
        ))  # fmt: skip
        writer.write_postings_lists(postings())
        writer.write_documents(
            DocRecord(docid=number, collection_docid=docno, doclength=length)
            for number, (docno, length) in enumerate(zip(generation.docnos.to_pylist(), lengths, strict=True))
        )
