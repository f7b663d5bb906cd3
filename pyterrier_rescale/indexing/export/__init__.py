"""Document vectors in the formats of other search engines; what these formats share."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ...encoding.pruning import whole_weights

#: Files that are sent in one request: OpenSearch takes 100 MB, Qdrant 32 MB.
PART_BYTES = 30_000_000


@dataclass
class Source:
    """What a format is written from."""

    vectors: Any  # the documents'
    terms: np.ndarray  # their names by column, (V,)
    queries: list[tuple[str, dict[int, float]]] | None = None  # (qid, {column: weight})
    scale: float = 1.0  # units per weight, for formats with whole weights
    documents: Iterable[dict[str, Any]] | None = None  # those that were encoded, in their order
    text: str = "text"  # the field of the text in them
    title: str = "title"

    def rows(self, *, whole: bool = False) -> Iterator[tuple[str, dict[int, Any], dict[str, str]]]:
        """Each document's docno, {column: weight} (in seven digits, or whole units), and fields."""
        documents = None if self.documents is None else iter(self.documents)
        for docnos, rows in self.vectors.blocks():
            rows = whole_weights(rows, self.scale) if whole else rows
            weights = rows.data.tolist() if whole else [float(f"{weight:.7g}") for weight in rows.data.tolist()]
            columns, ends = rows.indices.tolist(), rows.indptr.tolist()
            for docno, begin, end in zip(docnos, ends[:-1], ends[1:], strict=True):
                toks = dict(zip(columns[begin:end], weights[begin:end], strict=True))
                yield docno, toks, {} if documents is None else self._fields(docno, next(documents, {}))

    def _fields(self, docno: str, document: dict[str, Any]) -> dict[str, str]:
        if document.get("docno") != docno:
            raise ValueError(
                f"documents must be those that were encoded, in their order: {docno!r} is next, got "
                f"{document.get('docno')!r}"
            )
        missing = [name for name in (self.text, self.title) if name not in document]
        if missing not in ([], ["title"]):  # titles are optional
            raise ValueError(
                f"document {docno!r} lacks {missing[0]!r}; it has {', '.join(document)}: give text=NAME, title=NAME"
            )
        found = {"title": document.get(self.title), "text": document.get(self.text)}
        return {name: value for name, value in found.items() if value}

    def example(self) -> dict[int, float]:
        """A query: the five heaviest terms of the first document that has some."""
        rows = replace(self, documents=None).rows()
        return next((heaviest(toks, 5) for _, toks, _ in rows if toks), {})

    def named(self, toks: dict[int, Any]) -> dict[str, Any]:
        """Weights by the names of the terms."""
        return {self.terms[column]: weight for column, weight in toks.items()}

    def write_queries(self, path: Path, line: Callable[[str, dict[int, float]], str]) -> None:
        """Write a line per query, if there are some."""
        if self.queries is not None:
            write_lines(path, (line(qid, toks) for qid, toks in self.queries))


def write_parts(
    folder: Path, name: str, records: Iterable[str], before: str = "", between: str = "", after: str = ""
) -> None:
    """Write records, none of them cut, into files of about 30 MB, whose numbers stand in the name for ``*``."""
    total = 0

    def part(record: str) -> int:
        nonlocal total
        total += len(record.encode())
        return total // PART_BYTES

    for number, (_, group) in enumerate(groupby(records, part)):
        write_lines(folder / name.replace("*", f"{number:05d}"), [before, between.join(group), after])


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """Write a file in UTF-8, with its line ends as they are."""
    with open(path, "wb") as out:
        out.writelines(line.encode() for line in lines)


def json_line(content: Any, indent: int | None = None) -> str:
    """JSON with a line break."""
    return json.dumps(content, indent=indent, ensure_ascii=False) + "\n"


def heaviest(toks: dict[Any, float], n: int) -> dict[Any, float]:
    """The n heaviest terms, heaviest first."""
    return dict(sorted(toks.items(), key=lambda item: -item[1])[:n])
