"""Training files, JSONL or TSV, read row by row: memory holds where the rows begin, not the texts."""

from __future__ import annotations

import gzip
import json
import os
import re
import zlib
from array import array
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from ..._utils.paths import expand
from .rows import ID_COLUMNS, TEXTS, Facts, Names, Row, Rows, check_columns, clean, parse, say_skipped

_ENDINGS = (".jsonl", ".tsv", ".jsonl.gz", ".tsv.gz")

# Lines by which a file without a header is told.
_PEEKED = 100
_NUMBERS = ("score", "label", "relevance")
# What a judgement's label may be where there is no header; ids of documents seldom are all that small.
_LABELS = {"-2", "-1", "0", "1", "2", "3", "4"}
_LISTS = ("scores", "labels")


def open_data(source: str | os.PathLike[str]) -> Any:
    """Rows of a training file, or the collection of that name or folder.

    A line of ``.jsonl`` is an object with ``query``, ``positive``, ``negatives`` (a list) or ``negative*``, and
    ``scores``, or a list as in ``train``; a line of ``.tsv`` is a query, a positive and negatives, under a header with
    those names or none: then a fourth field that is a number in every line is the teacher's margin. Compressed files
    are read into memory, others are streamed.

    Raises:
        FileNotFoundError: if there is no such file, folder or collection.
        ValueError: for another kind of file, a broken line (naming it), or a file without rows.
    """
    path = expand(source)
    if path.is_file() or path.name.endswith(_ENDINGS):
        check_file(path)
        return list(file_examples(path)) if path.name.endswith(".gz") else FileRows(path)
    from ...collections import load_collection

    return load_collection(os.fspath(source))


def check_file(path: Path) -> None:
    """Raise ``FileNotFoundError`` or ``ValueError`` unless there is such a file and it has a known ending."""
    if not path.is_file():
        raise FileNotFoundError(f"data file {str(path)!r} does not exist")
    if not path.name.endswith(_ENDINGS):
        raise ValueError(f"data file must end in {', '.join(_ENDINGS)}, got {path.name!r}")


def file_examples(path: Path, names: Names = TEXTS) -> Iterator[Any]:
    """Tuples or dicts of a training file, plain or compressed, line by line.

    Raises:
        ValueError: for a broken line or columns that are wrong.
    """
    opened: Any = gzip.open(path) if path.name.endswith(".gz") else path.open("rb")
    try:
        with opened as file:
            read = _reader(path, file, names)
            for _, line in _lines(file):
                if line.strip():
                    yield read(line)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{str(path)!r}: cannot be read on, the gzip file is damaged or cut ({error})") from error


class FileRows(Rows):
    """Rows of a plain file; a first pass checks every line, then rows are read where they stand.

    Raises:
        ValueError: for a broken line, or if no row is left.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.facts = Facts()
        self._starts = array("q")
        skipped: Counter[str] = Counter()
        with path.open("rb") as file:
            self._read = _reader(path, file)
            for number, (start, line) in enumerate(_lines(file)):
                if not line.strip():
                    continue
                row = clean(parse(self._read(line), number), number, skipped)
                if row is not None:
                    self._starts.append(start)
                    self.facts.add(row)
        self.skipped = dict(skipped)
        say_skipped(skipped, len(self))
        if not self._starts:
            raise ValueError(f"data file {str(path)!r} must hold at least one pair of texts, but none is left")
        self._file = path.open("rb")

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> Row:  # type: ignore[override]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        self._file.seek(self._starts[index])
        row = clean(parse(self._read(self._file.readline()), index), index, Counter())
        if row is None:
            raise ValueError(f"{str(self.path)!r} has changed since it was opened")
        return row


def _lines(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    start = file.tell()
    for line in iter(file.readline, b""):
        yield start, line
        start += len(line)


def _reader(path: Path, file: BinaryIO, names_known: Names = TEXTS) -> Callable[[bytes], Any]:
    """What turns a line into an example; a TSV header is read off the file."""
    if ".jsonl" in path.suffixes:

        def read_json(line: bytes) -> Any:
            try:
                return json.loads(line)
            except ValueError as error:
                raise ValueError(f"{str(path)!r}: not JSON: {line[:80]!r} ({error})") from error

        return read_json
    if _is_trec(file):
        if names_known is TEXTS:
            raise ValueError(
                f"{str(path)!r} holds judgements (qrels: query, 0, document, label), ids and no texts: say where the "
                "texts stand, with texts="
            )
        return lambda line: dict(zip(("qid", "iteration", "docno", "label"), _trec(line), strict=True))
    names = file.readline().decode("utf-8-sig").rstrip("\r\n").split("\t")
    if any(set(names) & set(known) for known in (*names_known, ID_COLUMNS)):
        check_columns(names, names_known)
    else:
        file.seek(0)
        return _headless(path, file, names_known)

    def read_tsv(line: bytes) -> Any:
        values = _fields(line)
        if len(values) != len(names):
            raise ValueError(f"{str(path)!r}: {len(values)} fields where the header has {len(names)}: {line[:80]!r}")
        readers = {**dict.fromkeys(_NUMBERS, _number), **dict.fromkeys(_LISTS, _numbers)}
        return {name: readers.get(name, str)(value) for name, value in zip(names, values, strict=True)}

    return read_tsv


def _fields(line: bytes) -> list[str]:
    return line.decode("utf-8-sig").rstrip("\r\n").split("\t")


def _headless(path: Path, file: BinaryIO, names: Names) -> Callable[[bytes], Any]:
    """What reads lines without a header: texts or ids, with a teacher's margin or a judgement where the last is one."""
    rows = [_fields(line) for line in (file.readline() for _ in range(_PEEKED)) if line.strip()]
    file.seek(0)
    width = len(rows[0]) if rows and len({len(row) for row in rows}) == 1 else 0
    # ids are numbers, too: a margin of theirs is told by its decimals
    margin = re.compile(r"[-+]?\d+([.]\d+)?([eE][-+]?\d+)?" if names is TEXTS else r"[-+]?\d+[.]\d+([eE][-+]?\d+)?")
    if width == 4 and all(margin.fullmatch(row[3].strip()) for row in rows):
        if names is TEXTS and any(all(margin.fullmatch(row[place].strip()) for row in rows) for place in range(3)):
            return _fields  # ids: refused once all is read

        def read_margin(line: bytes) -> Any:
            *texts, number = _fields(line)
            if len(texts) != 3:
                raise ValueError(f"{str(path)!r}: {len(texts) + 1} fields where the first lines have 4: {line[:80]!r}")
            return [*texts, _number(number)]

        return read_margin
    last = {row[-1].strip() for row in rows}
    if names is not TEXTS and width == 3 and last <= _LABELS and last & {"0", "1"}:
        return lambda line: dict(zip(("qid", "docno", "label"), (*_fields(line)[:2], _label(line)), strict=True))
    return _fields


def _label(line: bytes) -> int:
    try:
        return int(_fields(line)[2])
    except (IndexError, ValueError):
        raise ValueError(f"a judgement is a query, a document and a whole number, got {line[:80]!r}") from None


def _numbers(value: str) -> float | list[float]:
    """``1.5``, or several: ``[2, 1.5]``, ``2 1.5``."""
    numbers = [_number(part) for part in re.split(r"[\s,]+", value.strip("[] \t"))]
    return numbers if len(numbers) > 1 else numbers[0]


def _trec(line: bytes) -> list[Any]:
    """Query, iteration, document and label of a line of TREC qrels."""
    query, iteration, document, label = line.decode("utf-8-sig").split()
    return [query, iteration, document, int(label)]


def _is_trec(file: BinaryIO) -> bool:
    """Whether the first lines of a file are TREC qrels, ``qid 0 docno label``; the file is left at its start."""
    lines = [line.split() for line in (file.readline() for _ in range(_PEEKED)) if line.strip()]
    file.seek(0)
    return bool(lines) and all(
        len(line) == 4 and line[1] in (b"0", b"Q0") and re.fullmatch(rb"-?\d+", line[3]) for line in lines
    )


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError as error:
        raise ValueError(f"a score must be a number, got {value!r}") from error
