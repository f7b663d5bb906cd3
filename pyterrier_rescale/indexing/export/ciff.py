"""The Common Index File Format (Lin et al., 2020): a file of protocol buffers, by the package ``ciff-toolkit``.

A header; then for each term, in the order of its bytes, its postings (gaps of document numbers, whole weights); then
each document's docno and length (the sum of its weights).
"""

from __future__ import annotations

import os
import tempfile
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..engines.documents import MAX_SUM
from ..engines.inversion import Inverter

if TYPE_CHECKING:
    from ..vectors.base import SparseVectors

_MAX_DOCUMENTS = 2**31 - 1


def write(vectors: SparseVectors, path: Path, *, scale: float) -> None:
    """Write one file; gzip-compressed if its name ends in ``.gz``."""
    try:
        from ciff_toolkit.ciff_pb2 import DocRecord, Header
        from ciff_toolkit.write import CiffWriter
    except ImportError as error:
        raise ImportError(f"format 'ciff' needs ciff-toolkit: pip install pyterrier-rescale[ciff] ({error})") from error
    if path.exists():
        raise FileExistsError(f"{str(path)!r} exists already: choose another path")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as folder:
        inverter, docnos, lengths = Inverter(Path(folder)), [], array("q")
        for document in vectors.documents(scale=scale):
            inverter.add(document["toks"])
            docnos.append(document["docno"])
            lengths.append(sum(document["toks"].values()))
        if max(lengths, default=0) > MAX_SUM or len(docnos) > _MAX_DOCUMENTS:
            raise ValueError("CIFF numbers documents and sums their weights in 31 bits: too many, or too heavy")
        inverter.finish()
        vocabulary, indptr, documents, weights = Inverter.read(Path(folder))
        header = Header(
            version=1,
            num_postings_lists=len(vocabulary),
            num_docs=len(docnos),
            total_postings_lists=len(vocabulary),
            total_docs=len(docnos),
            total_terms_in_collection=sum(lengths),
            average_doclength=sum(lengths) / max(1, len(docnos)),
            description=f"pyterrier-rescale: term weights times {scale:g}, rounded",
        )
        whole = Path(folder) / path.name
        with CiffWriter(whole) as writer:
            writer.write_header(header)
            writer.write_postings_lists(_postings(vocabulary, indptr, documents, weights))
            writer.write_documents(
                DocRecord(docid=number, collection_docid=docno, doclength=length)
                for number, (docno, length) in enumerate(zip(docnos, lengths, strict=True))
            )
        os.replace(whole, path)


def _postings(
    vocabulary: dict[str, int], indptr: np.ndarray, documents: np.ndarray, weights: np.ndarray
) -> Iterator[Any]:
    from ciff_toolkit.ciff_pb2 import Posting, PostingsList

    for term in sorted(vocabulary, key=str.encode):
        part = slice(*indptr[vocabulary[term] : vocabulary[term] + 2].tolist())
        gaps, values = np.diff(documents[part], prepend=0).tolist(), weights[part].tolist()
        postings = [Posting(docid=gap, tf=value) for gap, value in zip(gaps, values, strict=True)]
        yield PostingsList(term=term, df=len(values), cf=sum(values), postings=postings)
