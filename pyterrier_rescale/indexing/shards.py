"""Parquet shards of document vectors: docno string, terms list<int32>, weights list<float32>."""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.sparse import csr_matrix

from .._utils.files import sync

#: Documents of a row group, which is what is read and encoded at a time: the encoder sorts so many by length.
GROUP = 2048
# In a shard's metadata: the hash of the documents that it was encoded from.
_DIGEST = b"documents"


class Block(NamedTuple):
    """Some documents' vectors."""

    docnos: list[str]
    vectors: csr_matrix  # shape (n, V), float32


def shard_name(number: int) -> str:
    """``shard-00000.parquet``."""
    return f"shard-{number:05d}.parquet"


@contextmanager
def new_shard(path: Path, digest: str = "") -> Iterator[Callable[[Block], None]]:
    """A function that appends to a shard, which is at its place, whole and flushed, once all is written.

    ``digest`` is the hash of the documents that it is encoded from.
    """
    ints, floats = pa.list_(pa.int32()), pa.list_(pa.float32())
    schema = pa.schema([("docno", pa.string()), ("terms", ints), ("weights", floats)])
    beside = path.with_name(f".{path.name}-{uuid.uuid4().hex[:12]}")

    def write(block: Block) -> None:
        docnos, vectors = block
        offsets = pa.array(vectors.indptr.astype(np.int32))
        terms = pa.ListArray.from_arrays(offsets, pa.array(vectors.indices.astype(np.int32)), type=ints)
        weights = pa.ListArray.from_arrays(offsets, pa.array(vectors.data.astype(np.float32)), type=floats)
        table = pa.table([pa.array(docnos, pa.string()), terms, weights], schema=schema)
        writer.write_table(table, row_group_size=max(1, len(docnos)))

    try:
        with pq.ParquetWriter(
            beside, schema, compression="zstd", use_dictionary=False, write_page_checksum=True
        ) as writer:
            yield write
            writer.add_key_value_metadata({_DIGEST: digest.encode()})
        sync(beside)
        os.replace(beside, path)
        sync(path.parent)
    finally:
        beside.unlink(missing_ok=True)


def write_shards(folder: Path, blocks: Iterator[Block]) -> None:
    """Write blocks of vectors as shards of up to 50,000 documents each."""
    for number, block in zip(itertools.count(), blocks):  # noqa: B905
        with new_shard(folder / shard_name(number)) as write:
            for part in itertools.chain([block], itertools.islice(blocks, 50_000 // GROUP - 1)):
                write(part)


def shard_digest(path: Path) -> str | None:
    """The hash of the documents that a shard was encoded from; None if there is no shard, or it is cut short."""
    try:
        return (pq.read_metadata(path).metadata or {})[_DIGEST].decode()
    except (FileNotFoundError, pa.ArrowInvalid, KeyError):
        return None


def read_shard(path: Path, width: int) -> Iterator[Block]:
    """The row groups of a shard, of ``width`` columns; ``ValueError`` if it is damaged (its pages carry checksums)."""
    try:
        with pq.ParquetFile(path, page_checksum_verification=True) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, use_threads=False)
                terms, weights = (table.column(name).combine_chunks() for name in ("terms", "weights"))
                indptr = terms.offsets.to_numpy().astype(np.int64)
                arrays = weights.flatten().to_numpy(), terms.flatten().to_numpy(), indptr - indptr[0]
                yield Block(table.column("docno").to_pylist(), csr_matrix(arrays, shape=(table.num_rows, width)))
    except FileNotFoundError:
        raise
    except (OSError, pa.ArrowInvalid) as error:
        raise ValueError(f"the shard {path} is damaged: {error}") from error
