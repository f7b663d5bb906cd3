"""Parquet shards of document vectors: docno string, terms list<int32>, weights list<float32>."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .._utils.files import sync

if TYPE_CHECKING:
    import pyarrow as pa
    from scipy.sparse import csr_matrix

#: Documents of a row group, which is what is read and encoded at a time: the encoder sorts so many by length.
GROUP = 2048
_KEY = b"pyterrier_rescale"


class Block(NamedTuple):
    """Some documents' vectors.

    Attributes:
        docnos: of n documents.
        vectors: their weights, shape (n, V), float32; column = number of the term.
    """

    docnos: list[str]
    vectors: csr_matrix


class ShardRecord(NamedTuple):
    """What a shard says of itself: its documents' hash (where it was encoded), rows and postings."""

    documents: str
    rows: int
    postings: int


def shard_name(number: int) -> str:
    """``shard-00000.parquet``."""
    return f"shard-{number:05d}.parquet"


class ShardWriter:
    """Writes a shard beside its place; it is at its place, whole and flushed, after ``commit``."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        self.path, self._beside = path, path.with_name(f".{path.name}-{uuid.uuid4().hex[:12]}")
        self.rows = self.postings = 0
        self._writer = pq.ParquetWriter(
            self._beside, _schema(), compression="zstd", use_dictionary=False, write_page_checksum=True
        )

    def write(self, block: Block) -> None:
        """Append documents as one row group."""
        self._writer.write_table(to_table(*block), row_group_size=max(1, len(block.docnos)))
        self.rows += len(block.docnos)
        self.postings += int(block.vectors.nnz)

    def commit(self, documents: str = "") -> None:
        """Finish the file and put it at its place."""
        record = ShardRecord(documents, self.rows, self.postings)
        self._writer.add_key_value_metadata({_KEY: json.dumps(record._asdict()).encode()})
        self._writer.close()
        sync(self._beside)
        os.replace(self._beside, self.path)
        sync(self.path.parent)

    def abandon(self) -> None:
        """Remove what was written."""
        with suppress(Exception):
            self._writer.close()
        self._beside.unlink(missing_ok=True)


def write_shards(folder: Path, blocks: Iterator[Block], first: int, size: int = 50_000) -> int:
    """Write blocks of vectors as the shards from number ``first`` on; return the number of their postings."""
    writer, postings = None, 0
    try:
        for block in blocks:
            writer = writer or ShardWriter(folder / shard_name(first))
            writer.write(block)
            postings += int(block.vectors.nnz)
            if writer.rows >= size:
                writer.commit()
                writer, first = None, first + 1
        if writer:
            writer.commit()
            writer = None
    finally:
        if writer:
            writer.abandon()
    return postings


def read_record(path: Path) -> ShardRecord | None:
    """What the shard at ``path`` says of itself; None if there is none, or it is cut short."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return ShardRecord(**json.loads((pq.read_metadata(path).metadata or {})[_KEY]))
    except (FileNotFoundError, pa.ArrowInvalid, KeyError, ValueError):
        return None


def read_docnos(path: Path) -> list[str]:
    """The docnos of a shard, in order."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        return file.read(["docno"])["docno"].to_pylist()


def read_blocks(path: Path, width: int, groups: list[int] | None = None) -> Iterator[Block]:
    """The row groups of a shard, or some of them; vectors have ``width`` columns.

    Raises:
        ValueError: the file is damaged (its pages carry checksums).
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups) if groups is None else groups:
                yield from_table(file.read_row_group(group, use_threads=False), width)
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"the shard {path} is damaged: {error}") from error


def group_ends(path: Path) -> list[int]:
    """Where each row group of a shard ends: rows up to there."""
    import pyarrow.parquet as pq

    layout = pq.read_metadata(path)
    return np.cumsum([layout.row_group(group).num_rows for group in range(layout.num_row_groups)]).tolist()


def to_table(docnos: list[str], vectors: csr_matrix) -> pa.Table:
    """Rows as a table."""
    import pyarrow as pa

    schema = _schema()
    offsets = pa.array(vectors.indptr.astype(np.int32))
    columns = [
        pa.ListArray.from_arrays(offsets, pa.array(values.astype(dtype, copy=False)), type=schema.field(name).type)
        for name, values, dtype in (("terms", vectors.indices, np.int32), ("weights", vectors.data, np.float32))
    ]
    return pa.table([pa.array(docnos, pa.string()), *columns], schema=schema)


def from_table(table: pa.Table, width: int) -> Block:
    """A table's rows as vectors with ``width`` columns."""
    from scipy.sparse import csr_matrix

    table = table.combine_chunks()
    terms, weights = (table.column(name).combine_chunks() for name in ("terms", "weights"))
    indptr = terms.offsets.to_numpy().astype(np.int64)
    arrays = weights.flatten().to_numpy(), terms.flatten().to_numpy(), indptr - indptr[0]
    return Block(table.column("docno").to_pylist(), csr_matrix(arrays, shape=(table.num_rows, width)))


def _schema() -> Any:
    import pyarrow as pa

    numbers = [("terms", pa.list_(pa.int32())), ("weights", pa.list_(pa.float32()))]
    return pa.schema([("docno", pa.string()), *numbers])
