"""Vectors by docno, beside the shards: mapped files, of which reading some documents touches some pages alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix

from .shards import Block

_DOCNOS, _ORDER, _ENDS, _TERMS, _WEIGHTS = "docnos.arrow", "order.npy", "row-ends.npy", "row-terms", "row-weights"


def write_rows(folder: Path, blocks: Iterable[Block], width: int) -> int:
    """Write docnos, their order, and all rows of vectors of ``width`` columns; return the number of documents."""
    docnos, counts = [], [np.zeros(1, np.int64)]
    with open(folder / _TERMS, "wb") as terms, open(folder / _WEIGHTS, "wb") as weights:
        for names, vectors in blocks:
            docnos.append(pa.array(names, pa.large_string()))
            counts.append(np.diff(vectors.indptr))
            vectors.indices.astype(np.min_scalar_type(width)).tofile(terms)
            vectors.data.tofile(weights)
        np.zeros(1).tofile(terms)  # empty files cannot be mapped
        np.zeros(1).tofile(weights)
    names = pa.concat_arrays(docnos)
    np.save(folder / _ENDS, np.cumsum(np.concatenate(counts)))
    np.save(folder / _ORDER, pc.sort_indices(names).to_numpy().astype(np.int32))
    with pa.ipc.new_file(str(folder / _DOCNOS), pa.schema([("docno", names.type)])) as out:
        out.write(pa.record_batch([names], ["docno"]))
    return len(names)


class Rows:
    """What ``write_rows`` wrote.

    Attributes:
        docnos: by document number, (N,).
        order: document numbers in the order of docnos, (N,).
    """

    def __init__(self, folder: Path, width: int) -> None:
        with pa.memory_map(str(folder / _DOCNOS)) as file:
            self.docnos: pa.LargeStringArray = pa.ipc.open_file(file).get_batch(0).column(0)
        self.order = np.load(folder / _ORDER, mmap_mode="r").view(np.ndarray)
        self._width, self._ends = width, np.load(folder / _ENDS, mmap_mode="r").view(np.ndarray)
        self._terms = np.memmap(folder / _TERMS, np.min_scalar_type(width), "r").view(np.ndarray)
        self._weights = np.memmap(folder / _WEIGHTS, np.float32, "r").view(np.ndarray)

    def numbers(self, docnos: Sequence[str] | pd.Series) -> np.ndarray:
        """The documents' numbers, by binary search.

        Raises:
            KeyError: there is no such document.
        """
        wanted, count = pa.array(docnos, pa.large_string()), len(self.order)
        less = np.zeros(len(wanted), dtype=np.int64)  # docnos that come before each
        for bit in reversed(range(count.bit_length())):
            last = np.minimum(less + (1 << bit), count) - 1
            before = pc.less(self.docnos.take(self.order[last]), wanted)
            less = np.where(before.to_numpy(zero_copy_only=False), last + 1, less)
        numbers = self.order[np.minimum(less, count - 1)]
        found = pc.equal(self.docnos.take(numbers), wanted).to_numpy(zero_copy_only=False)
        if not found.all():
            missing = wanted[int(np.argmin(found))].as_py()
            raise KeyError(f"document {missing!r} is not among the {count:,} that are held here")
        return numbers

    def vectors(self, numbers: np.ndarray) -> csr_matrix:
        """The vectors of documents by number, shape (n, V), float32."""
        begins, counts = self._ends[numbers], self._ends[numbers + 1] - self._ends[numbers]
        indptr = np.concatenate([[0], np.cumsum(counts)])
        places = np.repeat(begins - indptr[:-1], counts) + np.arange(indptr[-1])
        terms = self._terms[places].astype(np.int32)
        return csr_matrix((self._weights[places], terms, indptr), shape=(len(numbers), self._width))
