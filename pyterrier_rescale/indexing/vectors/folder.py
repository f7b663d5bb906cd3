"""A folder of Parquet shards and one manifest, as a PyTerrier artifact."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyterrier as pt

from ..._utils.paths import expand
from .base import Block, SparseVectors
from .manifest import describe_absence, read_manifest
from .shards import read_record, read_shard

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix


def open_vectors(path: str | os.PathLike[str]) -> Vectors:
    """The finished vectors at ``path``, which :func:`~pyterrier_rescale.encode` made; no model is loaded.

    Raises:
        FileNotFoundError: there are none, or they are not finished; the message says what is there.
        ValueError: they are damaged, or of another format.
    """
    vectors = Vectors(expand(path))
    vectors.manifest  # noqa: B018  (raises)
    return vectors


class Vectors(SparseVectors, pt.Artifact):
    """Document vectors in Parquet shards (docno string, terms list<int32>, weights list<float32>) and a manifest.

    Every Parquet reader opens the shards; terms are token ids, ascending; the manifest has the terms by id. Any engine
    indexes them: ``open_index(path, engine).indexer().index(vectors)``.
    """

    ARTIFACT_TYPE = "sparse_vectors"
    ARTIFACT_FORMAT = "rescale_vectors"
    ARTIFACT_PACKAGE_HINT = "pyterrier-rescale"

    @property
    def complete(self) -> bool:
        """Whether all shards are there; else other processes still work on their shares."""
        return read_manifest(Path(self.path)) is not None

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """Format, encoder, vocabulary, corpus, settings, shards.

        Raises:
            FileNotFoundError: the vectors are not there or not finished.
            ValueError: a shard is missing or is not the one that the manifest lists.
        """
        manifest = read_manifest(Path(self.path))
        if manifest is None:
            raise FileNotFoundError(describe_absence(Path(self.path)))
        for shard in manifest["shards"]:
            self._checked(shard)
        return manifest

    @cached_property
    def terms(self) -> np.ndarray:
        """Terms as engines hold them, by token id, (V,)."""
        return np.array(self.manifest["vocabulary"]["terms"], dtype=object)

    @cached_property
    def readable(self) -> np.ndarray:
        """Terms for people, by token id, (V,)."""
        return np.array(self.manifest["vocabulary"]["readable"], dtype=object)

    vocabulary = property(lambda self: self.manifest["vocabulary"]["fingerprint"])

    @property
    def encoder(self) -> str:
        """Fingerprint of the encoder that made the vectors."""
        return self.manifest["encoder"]

    @property
    def corpus(self) -> str:
        """Fingerprint of the documents."""
        return self.manifest["corpus"]

    @property
    def made_from(self) -> dict[str, Any]:
        """Encoder, corpus and settings, for the index that is made of the vectors."""
        settings = {name: value for name, value in self.manifest["settings"].items() if name != "shard_size"}
        return {"encoder": self.encoder, "corpus": self.corpus, "field": settings.pop("text_field"), **settings}

    @property
    def size_bytes(self) -> int:
        """The size of the folder's files in bytes."""
        return sum(file.stat().st_size for file in Path(self.path).iterdir() if file.is_file())

    def __len__(self) -> int:
        """The number of documents."""
        return sum(shard["rows"] for shard in self.manifest["shards"])

    def blocks(self) -> Iterator[Block]:
        """All documents in order, up to 2,048 at a time.

        Raises:
            ValueError: a shard is damaged (its pages carry checksums).
        """
        for shard in self.manifest["shards"]:
            rows = 0
            for group in read_shard(self._checked(shard)):
                rows += len(group[0])
                yield self._block(*group)
            if rows != shard["rows"]:
                raise ValueError(
                    f"the vectors at {self.path} are damaged: {shard['file']} has {rows} rows instead of "
                    f"{shard['rows']}"
                )

    @cached_property
    def docnos(self) -> list[str]:
        """The docnos, in order."""
        import pyarrow.parquet as pq

        files = [self._checked(shard) for shard in self.manifest["shards"]]
        return [docno for file in files for docno in pq.read_table(file, columns=["docno"])["docno"].to_pylist()]

    def _checked(self, shard: dict[str, Any]) -> Path:
        """The file of a shard that the manifest lists; ValueError if it is not that shard (any more)."""
        file = Path(self.path) / shard["file"]
        record = read_record(file)
        if record is None:
            raise ValueError(f"the vectors at {self.path} are damaged: {shard['file']} is missing or damaged")
        if record.content != shard["content"]:
            raise ValueError(
                f"the vectors at {self.path} are not those of their manifest: {shard['file']} is another one; if they "
                "were encoded anew in the meantime, open them again"
            )
        return file

    def _row(self, place: int) -> csr_matrix:
        import pyarrow.parquet as pq

        ends = np.cumsum([shard["rows"] for shard in self.manifest["shards"]])
        number = int(np.searchsorted(ends, place, side="right"))
        place -= int(ends[number - 1]) if number else 0
        file = self._checked(self.manifest["shards"][number])
        layout = pq.read_metadata(file)
        ends = np.cumsum([layout.row_group(group).num_rows for group in range(layout.num_row_groups)])
        group = int(np.searchsorted(ends, place, side="right"))
        place -= int(ends[group - 1]) if group else 0
        (rows,) = read_shard(file, [group])
        return self._block(*rows).vectors[place]

    def _block(self, docnos: list[str], indptr: np.ndarray, indices: np.ndarray, data: np.ndarray) -> Block:
        from scipy.sparse import csr_matrix

        return Block(docnos, csr_matrix((data, indices, indptr), shape=(len(docnos), len(self.terms))))

    def __repr__(self) -> str:
        return f"open_vectors({str(self.path)!r})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vectors) and os.path.abspath(self.path) == os.path.abspath(other.path)

    def __hash__(self) -> int:
        return hash(("Vectors", os.path.abspath(self.path)))

    def __getstate__(self) -> dict[str, Any]:
        return {"path": self.path}
