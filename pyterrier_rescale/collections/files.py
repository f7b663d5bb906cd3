"""Reads the files of a collection: JSON lines and judgements, plain or gzip. Errors name the file and the line."""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

# White space splits the columns of TREC runs and qrels; control characters and marks are invisible; surrogates are
# no UTF-8.
_FORBIDDEN = re.compile("[\\s\x00-\x1f\x7f\ufeff\ud800-\udfff]")
# What the columns of judgements may be called; hyphens stand for underscores, too.
_COLUMNS = {
    "qid": ("query-id", "qid", "query", "topic-id"),
    "docno": ("corpus-id", "docno", "doc-id", "docid", "document-id", "pid", "passage-id"),
    "label": ("score", "label", "relevance", "rel"),
}
_NAMES = {name for names in _COLUMNS.values() for name in names}
# The columns of lines without a header, by their number.
_UNNAMED = {3: ["query-id", "corpus-id", "score"], 4: ["query-id", "iteration", "corpus-id", "score"]}


def check_id(value: object, what: str) -> str:
    """Return an id as a str; an int is written out. Errors call it ``what``, e.g. ``"docno"``."""
    if isinstance(value, (int, np.integer)) and not isinstance(value, bool):
        return str(int(value))
    if not isinstance(value, str) or not value or _FORBIDDEN.search(value):
        raise ValueError(
            f"{what} must be a str that is not empty and holds no white space or control characters, which TREC runs "
            f"and qrels cannot carry, got {value!r:.80}"
        )
    return value


def check_text(value: object, what: str) -> str:
    """Return a text, which must be a str."""
    if not isinstance(value, str):
        raise ValueError(f"{what} must be a str, got {value!r:.80}")
    return value


def check_label(value: object, what: str) -> int:
    """Return a relevance label, any whole number or numeral, as an int."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = float("nan")
    if not number.is_integer():
        raise ValueError(f"{what} must be a whole number, got {value!r}")
    return int(number)


def with_ids(rows: Iterable[tuple[str, Mapping[str, Any]]], key: str) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield the place, the id and the values of rows, given as places and values; no id may come twice."""
    seen: set[str] = set()
    for where, values in rows:
        identifier = check_id(values.get(key), f"{where}: {key}")
        if identifier in seen:
            raise ValueError(f"{where}: {key} {identifier!r} was there before")
        seen.add(identifier)
        yield where, identifier, values


def numbered_lines(file: Path) -> Iterator[tuple[int, str]]:
    """Iterate over (line number from 1, line without its end and without a byte-order mark), of plain text or gzip.

    Raises:
        ValueError: where the file is not UTF-8, holds NUL bytes, or is a damaged archive; it names file and line.
    """
    with open(file, "rb") as start:
        packed = start.read(2) == b"\x1f\x8b"
    if file.suffix == ".gz" and not packed:
        raise ValueError(f"{file}: is no gzip file: fetch it again, or take .gz off its name")
    number = 0
    try:
        with gzip.open(file) if packed else open(file, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                text = line.decode("utf-8").rstrip("\r\n")
                if "\0" in text:
                    raise ValueError(f"{file}, line {number}: holds NUL bytes: the file is damaged, or not UTF-8")
                yield number, text.lstrip("\ufeff")  # inner marks come from files put together
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}, line {number}: is not UTF-8 ({error}): save it as UTF-8") from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(
            f"{file}, after line {number}: cannot be read on, the gzip file is damaged or cut ({error}); fetch it again"
        ) from error


def read_jsonl(file: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the place and the values of each JSON object of a file, plain or ``.gz``."""
    for number, line in numbered_lines(file):
        if not line.strip():
            continue
        try:
            values = json.loads(line)
        except (ValueError, RecursionError) as error:
            values = error
        if not isinstance(values, dict):
            why = f" ({values})" if isinstance(values, Exception) else ""
            raise ValueError(f"{file}, line {number}: must be one JSON object per line{why}, got {line.strip():.80}")
        yield f"{file}, line {number}", values


def read_qrels(file: Path) -> pd.DataFrame:
    """Read judgements: qid (str), docno (str), label (int), in the order of the file.

    JSONL, CSV, and tab-separated files go by the names of their columns, in any order. Without a header, three columns
    are query, document and score, and four columns are TREC's. A judgement that is repeated counts once.

    Raises:
        ValueError: for a line of another form, an id with white space, a score that is no whole number (the message
            names file and line), or two scores of one pair.
    """
    places, rows = [], []
    for where, values in read_jsonl(file) if ".jsonl" in file.suffixes else _read_columns(file):
        values = {_plain(name): value for name, value in values.items()}
        qid, docno, score = (next((values[n] for n in names if n in values), None) for names in _COLUMNS.values())
        if None in (qid, docno, score):
            raise ValueError(f"{where}: must hold query-id, corpus-id and score, got {values}")
        places.append(where)
        rows.append((
            check_id(qid, f"{where}: query-id"), check_id(docno, f"{where}: corpus-id"),
            check_label(score, f"{where}: score"),
        ))  # fmt: skip
    frame = pd.DataFrame(rows, columns=list(_COLUMNS)).drop_duplicates()
    frame = frame.astype({"qid": str, "docno": str, "label": "int64"})
    twice = frame.index[frame.duplicated(["qid", "docno"])]
    if len(twice):
        qid, docno, label = rows[twice[0]]
        raise ValueError(
            f"{places[twice[0]]}: document {docno!r} has score {label} for query {qid!r}, and another one above"
        )
    return frame.reset_index(drop=True)


def _read_columns(file: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the place and the values by column of each line of judgements."""
    header: list[str] = []
    for number, line in numbered_lines(file):
        if not line.strip():
            continue
        if {".tsv", ".csv"}.intersection(file.suffixes):
            cells = next(csv.reader([line], delimiter="," if ".csv" in file.suffixes else "\t"))
        else:
            cells = line.split()
        if not header:
            header = [_plain(cell) for cell in cells]
            if _NAMES.intersection(header) and not cells[-1].strip().lstrip("+-").isdigit():
                continue
            header = _UNNAMED.get(len(cells), _UNNAMED[3])
        fits = len(cells) == len(header)
        yield f"{file}, line {number}", dict(zip(header, cells, strict=True)) if fits else {"line": line}


def _plain(name: str) -> str:
    return name.strip().lower().replace("_", "-")
