"""A generation of a store, opened for reading: documents' vectors in shards, and what is looked up in them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..encoding.pruning import prune, whole_weights
from .shards import Block, group_ends, read_blocks, read_docnos, read_record, shard_name

if TYPE_CHECKING:
    import pandas as pd
    from pandas.api.extensions import ExtensionArray
    from scipy.sparse import csr_matrix

#: Of a generation: the folder of its shards, and the file of its terms.
SHARDS, VOCABULARY = "vectors", "vocabulary.json"
_CACHED_GROUPS = 64


class Generation:
    """Documents' vectors as they were when the generation was written; it never changes.

    Args:
        folder: of the generation.
        content: what describes it: ``documents``, ``scale`` (units per weight of an index, or None), ``fingerprint``
            (of the encoder's vocabulary, or None), ``made_from``, and more.
        kept: most terms that are read of a document, and their least weight.
    """

    #: Of an index: its engine, opened.
    engine: Any = None

    def __init__(
        self, folder: Path, content: dict[str, Any], kept: tuple[int | None, float] = (None, 0.0)
    ) -> None:
        self.folder, self.content, self._kept = folder, content, kept
        self._groups: dict[int, csr_matrix] = {}

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

    @cached_property
    def tokens(self) -> list[str | None] | None:
        """The tokenizer's own tokens, by column, where the vectors were encoded here."""
        return self._vocabulary["tokens"]

    @cached_property
    def columns(self) -> dict[str, int]:
        """Column of each term."""
        return {term: column for column, term in enumerate(self._vocabulary["terms"])}

    @cached_property
    def shards(self) -> list[Path]:
        """The shards' files, in order; by the manifest once the generation is finished: its folder may be gone."""
        names = self.content.get("files") or [f"{SHARDS}/{file.name}" for file in (self.folder / SHARDS).iterdir()]
        return sorted(self.folder / name for name in names if name.startswith(f"{SHARDS}/shard-"))

    @cached_property
    def docnos(self) -> ExtensionArray:
        """The docnos as pandas holds str, by document number, (N,)."""
        import pandas as pd

        docnos = [docno for shard in self.shards for docno in read_docnos(shard)]
        return pd.Series(docnos, dtype=None if docnos else object).array

    @cached_property
    def places(self) -> pd.Index:
        """The docnos as a pandas index, which finds a docno's number."""
        import pandas as pd

        return pd.Index(self.docnos)

    @cached_property
    def ranks(self) -> np.ndarray:
        """Each document's place in the order of docnos, which breaks ties of scores, (N,)."""
        ranks = np.empty(len(self.docnos), dtype=np.int32)
        docnos = list(self.docnos)
        ranks[sorted(range(len(docnos)), key=docnos.__getitem__)] = np.arange(len(docnos), dtype=np.int32)
        return ranks

    def blocks(self) -> Iterator[Block]:
        """All documents in order, up to 2,048 at a time."""
        for shard in self.shards:
            for docnos, vectors in read_blocks(shard, len(self.terms)):
                yield Block(docnos, prune(vectors, *self._kept))

    def whole_blocks(self) -> Iterator[csr_matrix]:
        """All vectors in whole units of the scale, int64, as engines hold them; weights that round to 0 are dropped."""
        for _, vectors in self.blocks():
            yield whole_weights(vectors, self.content["scale"])

    @cached_property
    def document_frequencies(self) -> np.ndarray:
        """Documents that have each term, in whole units, (V,)."""
        counts = np.zeros(len(self.terms), dtype=np.int64)
        for vectors in self.whole_blocks():
            counts += np.bincount(vectors.indices, minlength=len(counts))
        return counts

    def numbers(self, docnos: Sequence[str] | pd.Series) -> np.ndarray:
        """The documents' numbers; KeyError names a docno that is not there."""
        numbers = self.places.get_indexer(docnos)
        if (numbers < 0).any():
            missing = list(docnos)[int(np.flatnonzero(numbers < 0)[0])]
            raise KeyError(f"document {missing!r} is not among the {len(self.docnos):,} that are held here")
        return numbers

    def rows(self, docnos: Sequence[str] | pd.Series) -> csr_matrix:
        """The documents' vectors, shape (len(docnos), V): only the row groups that hold them are read.

        Raises:
            KeyError: there is no such document.
        """
        from scipy.sparse import csr_matrix, vstack

        numbers = self.numbers(docnos)
        if not len(numbers):
            return csr_matrix((0, len(self.terms)), dtype=np.float32)
        distinct, back = np.unique(numbers, return_inverse=True)
        groups = np.searchsorted(self._ends, distinct, side="right")
        parts = [
            self._group(int(group))[distinct[groups == group] - (self._ends[group - 1] if group else 0)]
            for group in np.unique(groups)
        ]
        return prune(vstack(parts, format="csr")[back], *self._kept)

    @cached_property
    def _group_ends(self) -> list[list[int]]:
        return [group_ends(shard) for shard in self.shards]

    @cached_property
    def _ends(self) -> np.ndarray:
        """Documents up to the end of each row group of all shards."""
        first, ends = 0, []
        for of_shard in self._group_ends:
            ends += [first + end for end in of_shard]
            first = ends[-1]
        return np.array(ends)

    def _group(self, number: int) -> csr_matrix:
        """The vectors of a row group, by its number among those of all shards; the last ones read are kept."""
        if number not in self._groups:
            shard, place = self._group_places[number]
            (block,) = read_blocks(self.shards[shard], len(self.terms), [place])
            if len(self._groups) >= _CACHED_GROUPS:
                self._groups.pop(next(iter(self._groups)), None)
            self._groups[number] = block.vectors
        return self._groups[number]

    @cached_property
    def _group_places(self) -> list[tuple[int, int]]:
        return [(shard, group) for shard, ends in enumerate(self._group_ends) for group in range(len(ends))]


def write_vocabulary(
    folder: Path, terms: Iterable[str], readable: Iterable[str] | None = None, tokens: Iterable[str] | None = None
) -> None:
    """Write the terms of a generation, by column."""
    lists = {"terms": terms, "readable": readable, "tokens": tokens}
    content = {name: None if values is None else list(values) for name, values in lists.items()}
    (folder / VOCABULARY).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def count_shards(folder: Path) -> tuple[int, int, int]:
    """(shards, documents, postings) of a generation's folder."""
    records = []
    while record := read_record(folder / SHARDS / shard_name(len(records))):
        records.append(record)
    return len(records), sum(record.rows for record in records), sum(record.postings for record in records)
