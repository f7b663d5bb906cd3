"""The files of a Terrier 5 index, written from inverted documents, to be read by Terrier.

Inverted file, lexicon and document index are byte for byte what Terrier's single-pass indexer writes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from .bitcodes import PostingBits

MAX_TERM_BYTES = 60  # three for each of the 20 characters that Terrier's lexicon reserves
CHUNK_POSTINGS = 2**20
_INT_MAX = 2**31 - 1
# Up to which sizes Terrier is told to hold a file in memory: its own limits for metadata. A lexicon it would leave on
# disk, which makes queries slower.
_DATA_IN_MEMORY, _INDEX_IN_MEMORY = 400 * 2**20, 100 * 2**20

# A Hadoop `Text` of fixed size, then a `BasicLexiconEntry`.
LEXICON_ENTRY = np.dtype(
    [
        ("size", "u1"),
        ("term", f"S{MAX_TERM_BYTES}"),
        ("number", ">i4"),
        ("frequency", ">i4"),
        ("documents", ">i4"),
        ("largest", ">i4"),
        ("byte", ">i8"),
        ("bit", "u1"),
    ]
)

# The classes that read the files, and their arguments.
_STRING, _INDEX = "java.lang.String", "org.terrier.structures.IndexOnDisk"
_NAME_AND_INDEX = (f"{_STRING},{_INDEX}", "structureName,index")
_INDEX_AND_NAME = (f"{_INDEX},{_STRING}", "index,structureName")
_POSTING = "org.terrier.structures.postings.bit.BasicIterablePosting"
_STRUCTURES = {
    "lexicon": ("FSOMapFileLexicon", *_NAME_AND_INDEX),
    "lexicon-inputstream": ("FSOMapFileLexicon$MapFileLexiconIterator", *_NAME_AND_INDEX),
    "lexicon-entry-inputstream": ("FSOMapFileLexicon$MapFileLexiconEntryIterator", *_NAME_AND_INDEX),
    "lexicon-keyfactory": ("seralization.FixedSizeTextFactory", _STRING, "${max.term.length}"),
    "lexicon-valuefactory": ("BasicLexiconEntry$Factory", "", ""),
    "document": ("FSADocumentIndexInMem", *_INDEX_AND_NAME),
    "document-inputstream": ("FSADocumentIndex$FSADocumentIndexIterator", *_INDEX_AND_NAME),
    "document-factory": ("SimpleDocumentIndexEntry$Factory", "", ""),
    "inverted": (
        "bit.BitPostingIndex",
        f"{_INDEX_AND_NAME[0]},org.terrier.structures.DocumentIndex,java.lang.Class",
        f"{_INDEX_AND_NAME[1]},document,{_POSTING}",
    ),
    "inverted-inputstream": (
        "bit.BitPostingIndexInputStream",
        f"{_INDEX_AND_NAME[0]},java.util.Iterator,java.lang.Class",
        f"{_INDEX_AND_NAME[1]},lexicon-entry-inputstream,{_POSTING}",
    ),
    "meta": ("ZstdCompressedMetaIndex", *_INDEX_AND_NAME),
    "meta-inputstream": ("ZstdCompressedMetaIndex$InputStream", *_INDEX_AND_NAME),
}


@dataclass
class TermStatistics:
    """Of every term (V,): where its postings begin in the inverted file (in bits), their weights' sum and maximum."""

    positions: np.ndarray
    sums: np.ndarray
    largest: np.ndarray


def write_inverted(folder: Path, indptr: np.ndarray, documents: np.ndarray, weights: np.ndarray) -> TermStatistics:
    """Write the inverted file, in bounded memory.

    Args:
        folder: of the index.
        indptr: where each term's postings begin (V+1,); every term has some.
        documents: document number of each posting, ascending within a term (P,).
        weights: of each posting (P,).
    """
    count = len(indptr) - 1
    terms = TermStatistics(*(np.zeros(count, dtype=np.int64) for _ in range(3)))
    previous = 0
    with open(folder / "data.inverted.bf", "wb") as out:
        bits = PostingBits(out)
        for a in range(0, len(documents), CHUNK_POSTINGS):
            numbers = documents[a : a + CHUNK_POSTINGS].astype(np.int64)
            values = weights[a : a + CHUNK_POSTINGS].astype(np.int64)
            # Terms that have postings in this chunk, and where they begin in it; the first may have begun before.
            low, high = np.searchsorted(indptr, a, "right") - 1, np.searchsorted(indptr, a + len(numbers), "left")
            begins = indptr[low:high] - a
            heads = begins[begins >= 0]
            gaps = np.diff(numbers, prepend=previous)
            gaps[heads] = numbers[heads] + 1
            previous = numbers[-1]
            terms.positions[high - len(heads) : high] = bits.append(gaps, values)[heads]
            parts = np.maximum(begins, 0)
            terms.sums[low:high] += np.add.reduceat(values, parts)
            terms.largest[low:high] = np.maximum(terms.largest[low:high], np.maximum.reduceat(values, parts))
        bits.close()
    return terms


def write_lexicon(folder: Path, names: Sequence[str], counts: np.ndarray, terms: TermStatistics) -> None:
    """Write the lexicon of the terms, which must be in the order of their UTF-8 bytes: Terrier searches by halving."""
    encoded = [name.encode("utf-8") for name in names]
    entries = np.zeros(len(names), dtype=LEXICON_ENTRY)
    entries["size"] = [len(name) for name in encoded]
    entries["term"] = encoded
    entries["number"] = np.arange(len(names))
    entries["frequency"] = np.minimum(terms.sums, _INT_MAX)  # which Terrier's own indexers let overflow
    entries["documents"] = counts
    entries["largest"] = terms.largest
    entries["byte"], entries["bit"] = terms.positions >> 3, terms.positions & 7
    entries.tofile(folder / "data.lexicon.fsomapfile")


def write_documents(folder: Path, entries: np.ndarray, lengths: np.ndarray) -> None:
    """Write the document index: of each document the number of terms and the sum of their weights (N,)."""
    np.stack([entries, lengths], axis=1).astype(">i4").tofile(folder / "data.document.fsarrayfile")


def write_docnos(folder: Path, docnos: Sequence[str]) -> int:
    """Write the metadata, a Zstandard frame for each document; returns the most characters a docno has in Java.

    Terrier's record has room for three bytes per character of the longest docno. A frame of two blocks, the docno as it
    is and a run of zeros, takes no compressor and no more bytes than one would need for strings of this length.
    """
    longest = max(len(docno.encode("utf-16-le")) // 2 for docno in docnos)
    record = 3 * longest + _vint_size(longest)
    # Magic number, one segment with the content's size in 1 or 4 bytes (RFC 8878, section 3.1.1).
    content = b"\x20" + bytes([record]) if record < 256 else b"\xa0" + record.to_bytes(4, "little")
    header = b"\x28\xb5\x2f\xfd" + content
    sizes = np.empty(len(docnos), dtype=np.int64)
    with open(folder / "data.meta.zdata", "wb") as out:
        for number, docno in enumerate(docnos):
            text = docno.encode("utf-8")
            frame = header + _block(0, len(text)) + text + _block(1, record - len(text), last=True) + b"\0"
            sizes[number] = len(frame)
            out.write(frame)
    (np.cumsum(sizes) - sizes).astype(">i8").tofile(folder / "data.meta.idx")
    return longest


def write_properties(folder: Path, *, terms: int, postings: int, tokens: int, documents: int, longest: int) -> None:
    """Write the properties, which tell Terrier the classes that read the other files and their arguments.

    `tokens` is the sum of all weights, `longest` what `write_docnos` returned, the others are counts.
    """
    properties = {
        "index.terrier.version": "5.11",
        "index.created": int(time.time() * 1000),
        "num.Documents": documents,
        "num.Terms": terms,
        "num.Tokens": tokens,
        "num.Pointers": postings,
        "termpipelines": "",
        "max.term.length": MAX_TERM_BYTES // 3,
        "index.lexicon.termids": "aligned",
        "index.lexicon.data-source": _source(folder / "data.lexicon.fsomapfile", _INDEX_IN_MEMORY),
        "index.inverted.fields.count": 0,
        "index.inverted.fields.names": "",
        "index.meta.key-names": "docno",
        "index.meta.value-lengths": longest,
        "index.meta.entry-length": 3 * longest + _vint_size(longest),
        "index.meta.value-sorted": "false",
        "index.meta.reverse-key-names": "",
        "index.meta.entries": documents,
        "index.meta.data-source": _source(folder / "data.meta.zdata", _DATA_IN_MEMORY),
        "index.meta.index-source": _source(folder / "data.meta.idx", _INDEX_IN_MEMORY),
    }
    for name, (java_class, types, values) in _STRUCTURES.items():
        properties[f"index.{name}.class"] = f"org.terrier.structures.{java_class}"
        properties[f"index.{name}.parameter_types"] = types
        properties[f"index.{name}.parameter_values"] = values
    with open(folder / "data.properties", "w", encoding="ascii", newline="\n") as out:
        out.writelines(f"{key}={value}\n" for key, value in properties.items())


def _source(file: Path, limit: int) -> str:
    return "fileinmem" if file.stat().st_size <= limit else "file"


def _block(kind: int, size: int, *, last: bool = False) -> bytes:
    """The header of a Zstandard block: 0, raw; 1, one byte repeated."""
    return (size << 3 | kind << 1 | last).to_bytes(3, "little")


def _vint_size(number: int) -> int:
    """How many bytes Hadoop writes a variable-length int >= 0 in."""
    return 1 if number < 128 else 1 + (number.bit_length() + 7) // 8
