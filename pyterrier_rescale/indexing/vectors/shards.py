"""One Parquet shard: written beside and renamed, knows what it was made from, checked when read."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..._utils.durable import sync
from ..._utils.locks import open_locked
from .manifest import BESIDE

if TYPE_CHECKING:
    import pyarrow as pa
    from scipy.sparse import csr_matrix

#: Of what a shard says of itself, in its Parquet metadata.
KEY = b"pyterrier_rescale"
PARTIAL = ".partial"


class ShardRecord(NamedTuple):
    """What a shard says of itself, inside its own file.

    Attributes:
        encoder: fingerprint of the encoder.
        settings: fingerprint of the settings that the vectors depend on.
        documents: hash of the documents' docnos and texts.
        rows: documents.
        postings: term weights.
        content: SHA-256 of the rows (of docnos, term ids and weights).
    """

    encoder: str
    settings: str
    documents: str
    rows: int
    postings: int
    content: str


def shard_name(number: int) -> str:
    """``shard-00000.parquet``."""
    return f"shard-{number:05d}.parquet"


class ShardWriter:
    """Writes a shard's rows beside its place, in row groups; nothing is at the place until ``commit``.

    It records the fingerprints of encoder and settings.

    Raises:
        RuntimeError: another process is writing this shard now.
    """

    def __init__(self, path: Path, encoder: str, settings: str) -> None:
        import pyarrow.parquet as pq

        self.path = path
        self.rows = self.postings = 0
        self._made_by = (encoder, settings)
        self._digest = hashlib.sha256()
        self._file = _exclusive(partial_of(path))
        self._writer = pq.ParquetWriter(
            self._file, _schema(), compression="zstd", use_dictionary=False, write_page_checksum=True
        )

    def write(self, docnos: list[str], vectors: csr_matrix) -> None:
        """Append documents as one row group."""
        table = to_table(docnos, vectors)
        _update(self._digest, docnos, vectors.indptr, vectors.indices, vectors.data)
        self._writer.write_table(table, row_group_size=max(1, len(docnos)))
        self.rows += len(docnos)
        self.postings += int(vectors.nnz)

    def commit(self, documents: str) -> ShardRecord:
        """Finish the file and put it to its place; durable when this returns."""
        record = ShardRecord(*self._made_by, documents, self.rows, self.postings, self._digest.hexdigest())
        self._writer.add_key_value_metadata({KEY: json.dumps(record._asdict()).encode()})
        self._writer.close()
        self._file.flush()
        os.fsync(self._file.fileno())
        os.replace(partial_of(self.path), self.path)
        self._file.close()
        sync(self.path.parent)
        return record

    def abandon(self) -> None:
        """Remove what was written, unless it was committed."""
        if self._file.closed:
            return
        with contextlib.suppress(Exception):
            self._writer.close()
        partial_of(self.path).unlink(missing_ok=True)
        self._file.close()


def read_record(path: Path) -> ShardRecord | None:
    """What the shard at ``path`` says of itself; ``None`` if there is none, or it is no shard or cut short."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        metadata = pq.read_metadata(path).metadata or {}
        return ShardRecord(**json.loads(metadata[KEY]))
    except (OSError, pa.ArrowInvalid, KeyError, ValueError, TypeError):
        return None


def is_whole(path: Path, record: ShardRecord) -> bool:
    """Whether the shard's rows are those that were written."""
    digest, rows = hashlib.sha256(), 0
    try:
        for docnos, indptr, indices, data in read_shard(path):
            _update(digest, docnos, indptr, indices, data)
            rows += len(docnos)
    except ValueError:
        return False
    return rows == record.rows and digest.hexdigest() == record.content


def read_shard(
    path: Path, groups: list[int] | None = None
) -> Iterator[tuple[list[str], np.ndarray, np.ndarray, np.ndarray]]:
    """(docnos, indptr, term ids, weights) of each row group.

    Raises:
        ValueError: the file is damaged.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups) if groups is None else groups:
                table = file.read_row_group(group, use_threads=False)
                yield from_table(table)
    except (OSError, pa.ArrowInvalid) as error:
        if isinstance(error, FileNotFoundError):
            raise
        raise ValueError(f"the shard {path} is damaged: {error}") from error


def to_table(docnos: list[str], vectors: csr_matrix) -> pa.Table:
    """Rows as a table: docno string, terms list<int32>, weights list<float32>."""
    import pyarrow as pa

    schema = _schema()
    offsets = pa.array(vectors.indptr.astype(np.int32))
    columns = [
        pa.ListArray.from_arrays(offsets, pa.array(values.astype(dtype, copy=False)), type=schema.field(name).type)
        for name, values, dtype in (("terms", vectors.indices, np.int32), ("weights", vectors.data, np.float32))
    ]
    return pa.table([pa.array(docnos, pa.string()), *columns], schema=schema)


def from_table(table: pa.Table) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """(docnos, indptr, term ids, weights) of a table."""
    table = table.combine_chunks()
    terms, weights = (table.column(name).combine_chunks() for name in ("terms", "weights"))
    indptr = terms.offsets.to_numpy().astype(np.int64)
    return (
        table.column("docno").to_pylist(),
        indptr - indptr[0],
        terms.flatten().to_numpy(),
        weights.flatten().to_numpy(),
    )


def clear_partials(folder: Path) -> None:
    """Remove what killed writers left; what a live one is writing stays."""
    for partial in folder.glob(f".shard-*{PARTIAL}"):
        with contextlib.suppress(RuntimeError, FileNotFoundError):
            file = _exclusive(partial, create=False)
            partial.unlink(missing_ok=True)
            file.close()
    for beside in filter(BESIDE.fullmatch, os.listdir(folder)):
        (folder / beside).unlink(missing_ok=True)


def partial_of(path: Path) -> Path:
    """Where the shard that will be at ``path`` is written."""
    return path.with_name(f".{path.name}{PARTIAL}")


def _schema() -> pa.Schema:
    import pyarrow as pa

    numbers = [("terms", pa.list_(pa.int32())), ("weights", pa.list_(pa.float32()))]
    return pa.schema([("docno", pa.string()), *numbers])


def _update(digest: Any, docnos: list[str], indptr: np.ndarray, indices: np.ndarray, data: np.ndarray) -> None:
    """Hash rows: docnos, each followed by a line break; then lengths, term ids and weights, little-endian."""
    digest.update("".join(f"{docno}\n" for docno in docnos).encode())
    digest.update(np.ascontiguousarray(np.diff(indptr), dtype="<i4").data)
    digest.update(np.ascontiguousarray(indices, dtype="<i4").data)
    digest.update(np.ascontiguousarray(data, dtype="<f4").data)


def _exclusive(path: Path, *, create: bool = True) -> Any:
    """The file, empty and ours alone: the system lets go of the lock when a process dies.

    Raises:
        RuntimeError: another process holds it.
    """
    try:
        descriptor, _ = open_locked(path, create=create)
    except BlockingIOError as error:
        raise RuntimeError(
            f"another process is writing {path}: give each process a part of its own (shard=(0, 2), shard=(1, 2))"
        ) from error
    file = os.fdopen(descriptor, "r+b")
    file.truncate(0)
    return file
