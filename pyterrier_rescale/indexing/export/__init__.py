"""Document vectors in the formats of other search engines; what these formats share."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import Any

#: Queries as writers get them: (qid, {term: weight}).
Queries = list[tuple[str, Mapping[str, float]]]
PART_BYTES = 50_000_000  # servers refuse requests of more than 100 MB


def json_line(content: Any, indent: int | None = None) -> str:
    """JSON with a line break."""
    return json.dumps(content, indent=indent, ensure_ascii=False) + "\n"


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write one file in UTF-8, with its line ends as they are."""
    with open(path, "wb") as out:
        out.writelines(line.encode() for line in lines)


def write_parts(folder: Path, name: str, records: Iterable[str]) -> None:
    """Write records, none of them cut, into files of about 50 MB: ``name`` with 00000, 00001, ..."""
    size = 0

    def part(record: str) -> int:
        nonlocal size
        size += len(record.encode())
        return size // PART_BYTES

    for number, (_, group) in enumerate(groupby(records, part)):
        write_lines(folder / name.format(f"{number:05d}"), group)


def weights_by_term(vectors: Any) -> Iterator[tuple[str, dict[str, float]]]:
    """Each document's docno and weights, in seven digits: float32 has no more."""
    for docnos, rows in vectors.blocks():
        ends = rows.indptr.tolist()
        for docno, begin, end in zip(docnos, ends[:-1], ends[1:], strict=True):
            terms = vectors.terms[rows.indices[begin:end]].tolist()
            yield docno, {t: float(f"{w:.7g}") for t, w in zip(terms, rows.data[begin:end].tolist(), strict=True)}
