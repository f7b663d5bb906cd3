"""Rows of one's own data: from JSON lines, CSV and TSV (plain or gzip), frames and dicts. Errors name file and line."""

from __future__ import annotations

import csv
import gzip
import json
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from .._utils.documents import as_documents
from .._utils.files import expand

# White space splits the columns of TREC runs and qrels; control characters and marks are invisible; surrogates are
# no UTF-8.
_FORBIDDEN = re.compile("[\\s\x00-\x1f\x7f\ufeff\ud800-\udfff]")
#: What people call the columns; the first that is there counts. Case does not, and hyphens stand for underscores.
COLUMNS = {
    "docno": ("docno", "doc_id", "docid", "document_id", "corpus_id", "pid", "passage_id", "_id", "id"),
    "text": ("body", "text", "content", "contents", "passage", "abstract", "default_text"),
    "qid": ("qid", "query_id", "topic_id", "_id", "id"),
    "query": ("query", "text", "question"),
    "label": ("label", "relevance", "score", "rel"),
}
# The columns of judgements without a header: BEIR's, or TREC's.
_UNNAMED = {3: ["qid", "docno", "label"], 4: ["qid", "iteration", "docno", "label"]}
#: Endings of files with a JSON object in each line.
JSON_LINES = {".jsonl", ".ndjson", ".json"}
csv.field_size_limit(max(csv.field_size_limit(), 2**31 - 1))  # whole books in a cell
_QUOTED = re.compile(r'"([^"]|"")*"')

#: A place for messages, such as a file and a line, and what stands there.
Place = tuple[str, Mapping[str, Any]]


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
        raise ValueError(f"{what} must be a str, got {value!r:.80}: drop the row, or put an empty text '' there")
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


_CHECKS = {"docno": check_id, "text": check_text, "qid": check_id, "query": check_text, "label": check_label}


def column(row: Mapping[str, Any], wanted: str, where: str) -> str:
    """The name that a row has for a column; a ``ValueError`` says which would do."""
    names = {str(name).strip().lower().replace("-", "_"): name for name in row}
    for name in COLUMNS[wanted]:
        if name in names:
            return names[name]
    raise ValueError(
        f"{where}: needs a column {wanted!r} (or {', '.join(n for n in COLUMNS[wanted] if n != wanted)}), and has "
        f"{', '.join(map(repr, row)) or 'none'}"
    )


def read_document(where: str, row: Mapping[str, Any]) -> dict[str, Any]:
    """A document as `Collection.corpus` gives them; other columns, and the keys of ``metadata``, come along."""
    row = dict(row)
    docno = check_id(row.pop(column(row, "docno", where)), f"{where}: docno")
    body = check_text(row.pop(column(row, "text", where)), f"{where}: text of {docno!r}")
    title = row.pop(next((name for name in row if str(name).strip().lower() == "title"), "title"), None)
    missing = title is None or title is pd.NA or title != title
    title = "" if missing else check_text(title, f"{where}: title of {docno!r}")
    more = row.pop("metadata", {})
    row |= more if isinstance(more, dict) else {}
    return {**row, "docno": docno, "text": f"{title} {body}" if title else body, "title": title, "body": body}


def read_table(rows: Iterable[Place], *columns: str) -> pd.DataFrame:
    """These columns of all rows, checked: ids are str, labels int; a row that is repeated counts once."""
    places, values = [], []
    for where, row in rows:
        places.append(where)
        values.append([_CHECKS[one](row[column(row, one, where)], f"{where}: {one}") for one in columns])
    frame = pd.DataFrame(values, columns=list(columns)).drop_duplicates()
    frame = frame.astype({one: "int64" if one == "label" else str for one in columns})
    for again in frame.index[frame.duplicated(list(columns[:-1]))]:
        *ids, value = values[again]
        pair = " and ".join(map(repr, ids))
        raise ValueError(f"{places[again]}: {columns[-1]} of {pair} is {value!r:.80}, and another one above")
    return frame.reset_index(drop=True)


def rows_of(source: Any, what: str) -> Iterator[Place]:
    """Each row of a file, a frame, a dataset or of dicts, in messages called ``what``."""
    if isinstance(source, (str, os.PathLike)):
        return read_rows(expand(source))
    return ((f"{what}, row {number}", row) for number, row in enumerate(as_documents(source)))


def read_rows(file: Path) -> Iterator[Place]:
    """Each row of a file: JSON lines, ``.csv``, or ``.tsv`` (others: apart by white space), also ``.gz``.

    The first line names the columns. In judgements without a header, where it ends in a number, three columns are
    BEIR's and four are TREC's.
    """
    lines = ((f"{file}, line {number}", line) for number, line in numbered_lines(file) if line.strip())
    endings = {ending.lower() for ending in file.suffixes}
    if endings & JSON_LINES:
        yield from (_parsed(*line) for line in lines)
        return
    header: list[str] = []
    for where, cells in csv_cells(file) if ".csv" in endings else _tsv_cells(lines):
        if not header:
            named = not cells[-1].replace(".", "", 1).lstrip("+-").isdigit()
            header = cells if named else _UNNAMED.get(len(cells), [])
            if named:
                continue
        if len(cells) != len(header):
            raise ValueError(f"{where}: has {len(cells)} cells, expected {', '.join(header) or 'named columns'}")
        yield where, dict(zip(header, cells, strict=True))


def _parsed(where: str, line: str) -> Place:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        values = error
    if not isinstance(values, dict):
        why = f" ({values})" if isinstance(values, Exception) else ""
        raise ValueError(f"{where}: must be one JSON object per line{why}, got {line.strip():.80}")
    return where, values


def csv_cells(file: Path) -> Iterator[tuple[str, list[str]]]:
    """Rows of cells; a quoted cell may go over several lines."""
    reader = csv.reader((f"{line}\n" for _, line in numbered_lines(file)), strict=True)
    try:
        for cells in reader:
            if any(map(str.strip, cells)):
                yield f"{file}, line {reader.line_num}", cells
    except csv.Error as error:
        raise ValueError(f"{file}, line {reader.line_num}: is no CSV ({error}); a quote in a cell is doubled") from None


def _tsv_cells(lines: Iterable[tuple[str, str]]) -> Iterator[tuple[str, list[str]]]:
    """Cells of lines, apart by tabs if the first line is."""
    tabs = None
    for where, line in lines:
        tabs = "\t" in line if tabs is None else tabs
        yield where, list(map(unquoted, line.split("\t") if tabs else line.split()))


def unquoted(cell: str) -> str:
    """A cell as it was before a spreadsheet or pandas quoted it as a whole."""
    return cell[1:-1].replace('""', '"') if _QUOTED.fullmatch(cell) else cell


def numbered_lines(file: Path) -> Iterator[tuple[int, str]]:
    """(Line number from 1, line without its end and without a byte-order mark) of a text file or a ``.gz``."""
    number = 0
    try:
        with gzip.open(file) if file.suffix.lower() == ".gz" else open(file, "rb") as lines:
            for number, line in enumerate(lines, start=1):
                yield number, line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{file}, line {number}: is not UTF-8 ({error}): save it as UTF-8; of a file of another kind give a frame"
        ) from None
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ValueError(f"{file}, after line {number}: the gzip file is damaged or cut ({error})") from error
