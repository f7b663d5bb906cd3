"""A generation of a store: documents' vectors by block and, in mapped files, by docno; and their terms."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from scipy.sparse import csr_matrix

from .._utils.files import write_whole
from ..encoding.pruning import prune, whole_weights
from ..encoding.terms import Toks, to_toks
from .shards import Block, read_shard

#: Of a generation: the folder of its shards, and the file of its terms.
SHARDS, VOCABULARY = "vectors", "vocabulary.json"
# Docnos; document numbers in their order; and a matrix in CSR: ends of rows, columns, weights.
_DOCNOS, _ORDER, _ENDS, _COLUMNS, _WEIGHTS = "docnos.arrow", "order.npy", "rows.npy", "rows.columns", "rows.weights"


class Generation:
    """Documents' vectors as they were when the generation was written; it never changes.

    ``content`` describes it: ``documents``, ``scale`` (units per weight of an index, or None), ``fingerprint`` (of the
    encoder's vocabulary, or None), ``made_from``, and more. Of a document the ``kept`` most terms of a least weight
    are read.
    """

    engine: Any = None  # of an index, opened

    def __init__(
        self, folder: Path, content: dict[str, Any], kept: tuple[int | None, float] = (None, 0.0)
    ) -> None:
        self.folder, self.content, self._kept = folder, content, kept

    def at_scale(self, scale: float) -> Generation:
        """The same vectors, with so many units per weight."""
        return Generation(self.folder, {**self.content, "scale": scale}, self._kept)

    @cached_property
    def _vocabulary(self) -> dict[str, Any]:
        return json.loads((self.folder / VOCABULARY).read_text(encoding="utf-8"))

    @cached_property
    def terms(self) -> np.ndarray:
        """Terms as engines hold them, by column, (V,)."""
        return np.array(self._vocabulary["terms"], dtype=object)

    @cached_property
    def readable(self) -> np.ndarray:
        """Terms for people, by column, (V,)."""
        return np.array(self._vocabulary["readable"] or self._vocabulary["terms"], dtype=object)

    @property
    def tokens(self) -> list[str | None] | None:
        """The tokenizer's own tokens, by column, where the vectors were encoded here."""
        return self._vocabulary["tokens"]

    @cached_property
    def columns(self) -> dict[str, int]:
        """Column of each term."""
        return {term: column for column, term in enumerate(self._vocabulary["terms"])}

    def known(self, weights: Mapping[str, float]) -> dict[int, float]:
        """A query's known terms, by column."""
        columns = self.columns
        return {columns[term]: weight for term, weight in weights.items() if term in columns}

    @cached_property
    def docnos(self) -> pa.LargeStringArray:
        """The docnos, by document number, (N,)."""
        with pa.memory_map(str(self.folder / _DOCNOS)) as file:
            return pa.ipc.open_file(file).get_batch(0).column(0)

    @cached_property
    def _order(self) -> np.ndarray:
        return np.load(self.folder / _ORDER, mmap_mode="r").view(np.ndarray)

    @cached_property
    def ranks(self) -> np.ndarray:
        """Each document's place in the order of docnos, which breaks ties of scores, (N,)."""
        ranks = np.empty(len(self._order), dtype=np.int32)
        ranks[self._order] = np.arange(len(ranks), dtype=np.int32)
        return ranks

    def rows(self, docnos: Sequence[str] | pd.Series) -> csr_matrix:
        """The documents' vectors, shape (len(docnos), V), found by binary search; ``KeyError`` where there is none."""
        wanted, count = pa.array(docnos, pa.large_string()), len(self._order)
        less = np.zeros(len(wanted), dtype=np.int64)  # docnos that come before each
        for bit in reversed(range(count.bit_length())):
            last = np.minimum(less + (1 << bit), count) - 1
            before = pc.less(self.docnos.take(self._order[last]), wanted)
            less = np.where(before.to_numpy(zero_copy_only=False), last + 1, less)
        numbers = self._order[np.minimum(less, count - 1)]
        found = pc.equal(self.docnos.take(numbers), wanted).to_numpy(zero_copy_only=False)
        if not found.all():
            missing = wanted[int(np.argmin(found))].as_py()
            raise KeyError(f"document {missing!r} is not among the {count:,} that are held here")
        return self.rows_at(numbers)

    def rows_at(self, numbers: np.ndarray) -> csr_matrix:
        """The vectors of documents by number, shape (len(numbers), V)."""
        ends, columns, weights = self._matrix
        begins, counts = ends[numbers], ends[numbers + 1] - ends[numbers]
        indptr = np.concatenate([[0], np.cumsum(counts)])
        places = np.repeat(begins - indptr[:-1], counts) + np.arange(indptr[-1])
        arrays = weights[places], columns[places].astype(np.int32), indptr
        return self._held(csr_matrix(arrays, shape=(len(numbers), len(self.terms))))

    def _held(self, vectors: csr_matrix) -> csr_matrix:
        """Vectors as they are read: in an index the weights that its engine holds."""
        vectors = prune(vectors, *self._kept)
        if scale := self.content["scale"]:
            vectors = whole_weights(vectors, scale)
            vectors.data = (vectors.data / scale).astype(np.float32)
        return vectors

    @cached_property
    def _matrix(self) -> list[np.ndarray]:
        """All vectors in CSR: ends of rows (N+1,), columns and weights (P,); mapped."""
        ends = np.load(self.folder / _ENDS, mmap_mode="r")
        columns = np.memmap(self.folder / _COLUMNS, np.min_scalar_type(len(self.terms)), "r")
        weights = np.memmap(self.folder / _WEIGHTS, np.float32, "r")
        return [array.view(np.ndarray) for array in (ends, columns, weights)]

    def write_rows(self) -> int:
        """Write the files for what is read by docno, from the shards; return the number of documents."""
        docnos, counts, kind = [], [np.zeros(1, np.int64)], np.min_scalar_type(len(self.terms))
        with open(self.folder / _COLUMNS, "wb") as columns, open(self.folder / _WEIGHTS, "wb") as weights:
            for names, vectors in self.blocks():
                docnos.append(pa.array(names, pa.large_string()))
                counts.append(np.diff(vectors.indptr))
                vectors.indices.astype(kind).tofile(columns)
                vectors.data.tofile(weights)
            for file in (columns, weights):  # empty files cannot be mapped
                np.zeros(1).tofile(file)
        np.save(self.folder / _ENDS, np.cumsum(np.concatenate(counts)))
        names = pa.concat_arrays(docnos)
        np.save(self.folder / _ORDER, pc.sort_indices(names).to_numpy().astype(np.int32))
        with pa.ipc.new_file(str(self.folder / _DOCNOS), pa.schema([("docno", names.type)])) as out:
            out.write(pa.record_batch([names], ["docno"]))
        return len(names)

    @cached_property
    def shards(self) -> list[Path]:
        """The shards' files, in order; by the manifest once the generation is finished: its folder may be gone."""
        names = self.content.get("files") or [f"{SHARDS}/{file.name}" for file in (self.folder / SHARDS).iterdir()]
        return sorted(self.folder / name for name in names if name.startswith(f"{SHARDS}/shard-"))

    def blocks(self) -> Iterator[Block]:
        """All documents in order, up to 2,048 at a time."""
        for docnos, vectors in self._stored():
            yield Block(docnos, self._held(vectors))

    def _stored(self) -> Iterator[Block]:
        for shard in self.shards:
            yield from read_shard(shard, len(self.terms))

    def whole_blocks(self) -> Iterator[csr_matrix]:
        """All vectors in whole units of the scale, int64, as engines hold them; weights that round to 0 are dropped."""
        for _, vectors in self._stored():
            yield whole_weights(prune(vectors, *self._kept), self.content["scale"])

    def toks(self, vocab: str | None = None) -> Iterator[Toks]:
        """{term: whole weight} of each document; they know ``vocab``, their vocabulary and scale."""
        for block in self.whole_blocks():
            yield from to_toks(self.terms, block, vocab)

    @cached_property
    def document_frequencies(self) -> np.ndarray:
        """Documents that have each term, in whole units, (V,)."""
        counts = np.zeros(len(self.terms), dtype=np.int64)
        for vectors in self.whole_blocks():
            counts += np.bincount(vectors.indices, minlength=len(counts))
        return counts

    @cached_property
    def largest(self) -> int:
        """The largest weight, in whole units."""
        return max(int(vectors.data.max(initial=0)) for vectors in self.whole_blocks())


def write_vocabulary(
    folder: Path, terms: Iterable[str], readable: Iterable[str] | None = None, tokens: Iterable[str] | None = None
) -> None:
    """Write the terms of a generation, by column."""
    lists = {"terms": terms, "readable": readable, "tokens": tokens}
    content = {name: None if values is None else list(values) for name, values in lists.items()}
    write_whole(folder / VOCABULARY, json.dumps(content, ensure_ascii=False))
