"""A generation of a store, opened for reading: documents' vectors in shards, and what is looked up in them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix, vstack

from ..encoding.pruning import prune, whole_weights
from .shards import Block, group_sizes, read_block, read_docnos

#: Of a generation: the folder of its shards, and the file of its terms.
SHARDS, VOCABULARY = "vectors", "vocabulary.json"


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
        self._read_again = lru_cache(maxsize=64)(read_block)

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
    def docnos(self) -> pd.api.extensions.ExtensionArray:
        """The docnos as pandas holds str, by document number, (N,)."""
        docnos = [docno for shard in self.shards for docno in read_docnos(shard)]
        return pd.Series(docnos, dtype=None if docnos else object).array

    @cached_property
    def _numbers(self) -> pd.Index:
        """Finds a docno's number."""
        return pd.Index(self.docnos)

    @cached_property
    def ranks(self) -> np.ndarray:
        """Each document's place in the order of docnos, which breaks ties of scores, (N,)."""
        docnos = list(self.docnos)
        ranks = np.empty(len(docnos), dtype=np.int32)
        ranks[sorted(range(len(docnos)), key=docnos.__getitem__)] = np.arange(len(docnos))
        return ranks

    def blocks(self) -> Iterator[Block]:
        """All documents in order, up to 2,048 at a time."""
        for shard in self.shards:
            for group in range(len(group_sizes(shard))):
                docnos, vectors = read_block(shard, group, len(self.terms))
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

    @cached_property
    def largest(self) -> int:
        """The largest weight, in whole units."""
        return max(int(vectors.data.max(initial=0)) for vectors in self.whole_blocks())

    def rows(self, docnos: Sequence[str] | pd.Series) -> csr_matrix:
        """The documents' vectors, shape (len(docnos), V): only the row groups that hold them are read.

        Raises:
            KeyError: there is no such document.
        """
        numbers = self._numbers.get_indexer(docnos)
        if (numbers < 0).any():
            missing = list(docnos)[int(np.argmax(numbers < 0))]
            raise KeyError(f"document {missing!r} is not among the {len(self.docnos):,} that are held here")
        if not len(numbers):
            return csr_matrix((0, len(self.terms)), dtype=np.float32)
        distinct, back = np.unique(numbers, return_inverse=True)
        groups, firsts = self._groups
        of_each, parts = np.searchsorted(firsts, distinct, side="right") - 1, []
        for group in np.unique(of_each):
            block = self._read_again(*groups[group], len(self.terms))
            parts.append(block.vectors[distinct[of_each == group] - firsts[group]])
        return prune(vstack(parts, format="csr")[back], *self._kept)

    @cached_property
    def _groups(self) -> tuple[list[tuple[Path, int]], np.ndarray]:
        """(shard, number in it) of each row group of all shards, and the number of its first document."""
        sizes = [(shard, group, size) for shard in self.shards for group, size in enumerate(group_sizes(shard))]
        ends = np.cumsum([size for *_, size in sizes])
        return [(shard, group) for shard, group, _ in sizes], np.concatenate([[0], ends[:-1]])


def write_vocabulary(
    folder: Path, terms: Iterable[str], readable: Iterable[str] | None = None, tokens: Iterable[str] | None = None
) -> None:
    """Write the terms of a generation, by column."""
    lists = {"terms": terms, "readable": readable, "tokens": tokens}
    content = {name: None if values is None else list(values) for name, values in lists.items()}
    (folder / VOCABULARY).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
