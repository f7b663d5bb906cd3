"""Collections in folders of BEIR's format: corpus.jsonl, queries.jsonl and qrels/<split>.tsv, each plain or .gz."""

from __future__ import annotations

import gzip
import json
import os
import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from .._utils.paths import expand, whole_folder
from .._utils.seen_ids import SeenIds
from .._utils.text_lines import has_surrogates
from .base import Collection, make_document, order_splits
from .ids import check_id
from .jsonl import read_jsonl
from .qrels_file import read_qrels


class BeirCollection(Collection):
    """A collection in a folder of BEIR's format (Thakur et al., NeurIPS 2021); the corpus is streamed.

    Args:
        path: the folder, with ``corpus.jsonl`` (``_id``, ``title``, ``text``), ``queries.jsonl`` (``_id``, ``text``)
            and ``qrels/<split>.tsv`` (query-id, corpus-id, score, under a header or without); each may end in
            ``.gz``. Hidden files are passed over, byte-order marks and CRLF are understood.
        name: default: the folder's name.

    Raises:
        FileNotFoundError: if the folder or its corpus is missing.
    """

    def __init__(self, path: str | os.PathLike[str], name: str | None = None):
        self.path = expand(path)
        if self.path.is_file():
            raise NotADirectoryError(
                f"{str(self.path)!r} is a file, and a collection a folder in BEIR format; documents alone are indexed "
                "in Python: indexer().index(dicts with docno and text)"
            )
        if not self.path.is_dir():
            raise FileNotFoundError(f"collection folder {str(self.path)!r} does not exist")
        self.name = name or self.path.resolve().name
        self._corpus_file = self._file("corpus.jsonl")

    @cached_property
    def _qrels_files(self) -> dict[str, Path]:
        files: dict[str, Path] = {}
        folder = self.path / "qrels"
        for file in sorted(folder.rglob("*.tsv*")):
            inner = file.relative_to(folder)
            hidden = any(part.startswith(".") for part in inner.parts)  # e.g. ._test.tsv, which a Mac adds to archives
            if file.name.endswith((".tsv", ".tsv.gz")) and not hidden and file.is_file():
                files.setdefault(inner.as_posix().removesuffix(".gz").removesuffix(".tsv"), file)
        return files

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that have qrels."""
        return order_splits(set(self._qrels_files))

    def corpus(self) -> Iterator[dict[str, str]]:
        """Iterate over the documents, read line by line; the keys of ``metadata`` come along if it is an object.

        Raises:
            ValueError: at a malformed line, an id with white space, or an id that was there before; the message names
                file, line and id. In files of more than 65,536 documents repeated ids may be found that much later.
        """
        seen = SeenIds()
        for row in read_jsonl(self._corpus_file):
            docno = row.identifier()
            if suspects := seen.add(docno):
                _refuse_repeated(self._corpus_file, suspects)
            doc = make_document(docno, row.string("title", ""), row.string("text"))
            extra = row.fields.get("metadata")
            yield {**extra, **doc} if isinstance(extra, dict) else doc
        if suspects := seen.flush():
            _refuse_repeated(self._corpus_file, suspects)

    def topics(self, split: str = "test") -> pd.DataFrame:
        """Return the queries that the qrels of a split judge: qid (str), query (str), in the order of the file.

        Judged queries that ``queries.jsonl`` lacks are left out; they and blank queries, which find nothing, are told
        in a warning.

        Raises:
            ValueError: if there is no such split, a line is malformed, an id comes twice, or none of the judged
                queries is there.
        """
        judged = set(self.qrels(split)["qid"])
        rows = [(qid, query) for qid, query in self._queries.items() if qid in judged]
        missing = sorted(judged.difference(self._queries))
        if judged and not rows:
            raise ValueError(
                f"collection {self.name!r}: none of the {len(judged):,} queries that split {split!r} judges, such as "
                f"{missing[0]!r}, is in {self._file('queries.jsonl')}"
            )
        blank = [qid for qid, query in rows if not query.strip()]
        for qids, what in ((missing, "judged but missing"), (blank, "blank")):
            if qids:
                shown = ", ".join(map(repr, qids[:3]))
                warnings.warn(
                    f"collection {self.name!r}, split {split!r}: {len(qids):,} queries are {what} ({shown}"
                    f"{', ...' if len(qids) > 3 else ''})",
                    stacklevel=2,
                )
        return pd.DataFrame(rows, columns=["qid", "query"], dtype=str)

    def qrels(self, split: str = "test") -> pd.DataFrame:
        """Return the judgements of a split: qid (str), docno (str), label (int), in the order of the file.

        Columns are found by the header's names, see `read_qrels`. Whether the corpus has the documents is not checked:
        those that it lacks count as relevant and not found, and `train_pairs` counts and leaves them out.
        """
        self.check_split(split)
        return read_qrels(self._qrels_files[split])

    @cached_property
    def _queries(self) -> dict[str, str]:
        file = self._file("queries.jsonl")
        queries: dict[str, str] = {}
        for row in read_jsonl(file):
            qid = row.identifier()
            if qid in queries:
                _refuse_repeated(file, {hash(qid)})
            queries[qid] = row.string("text")
        return queries

    def _file(self, name: str) -> Path:
        for file in (self.path / name, self.path / f"{name}.gz"):
            if file.is_file():
                return file
        raise FileNotFoundError(f"collection folder {str(self.path)!r} has neither {name} nor {name}.gz")


def write_beir(collection: Collection, path: str | os.PathLike[str]) -> BeirCollection:
    """Write a collection as a folder in BEIR format and open it.

    The folder is written beside and then renamed: it is whole, or it is not there.

    Args:
        collection: what to write; keys of documents beyond docno, text, title and body go to ``metadata``.
        path: a folder that does not exist yet, or is empty.

    Raises:
        FileExistsError: if there is something in `path` already.
        ValueError: for what the format cannot hold: ids with white space, lone surrogates, metadata that are no JSON,
            names of splits that are no file names, one qid with two queries.
    """
    with whole_folder(path) as folder:
        write_beir_files(collection, folder)
    return BeirCollection(path)


def write_beir_files(collection: Collection, folder: Path) -> None:
    """Write the files of BEIR's format into a folder that exists."""
    with gzip.open(folder / "corpus.jsonl.gz", "wt", encoding="utf-8", compresslevel=4) as out:
        for doc in collection.corpus():
            docno = check_id(doc["docno"], "docno")
            title, body = doc.get("title") or "", doc.get("body")
            row: dict[str, Any] = {"_id": docno, "title": title, "text": doc["text"] if body is None else body}
            extra = {key: value for key, value in doc.items() if key not in ("docno", "text", "title", "body")}
            out.write(_json_line({**row, "metadata": extra} if extra else row, f"document {docno!r}"))
    queries: dict[str, str] = {}
    for split in collection.splits:
        if any(part.startswith(".") or not part for part in split.split("/")) or "\0" in split:
            raise ValueError(f"split {split!r} of {collection.name!r} cannot name a file: dots may not begin a part")
        for qid, query in collection.topics(split)[["qid", "query"]].itertuples(index=False):
            if queries.setdefault(check_id(qid, "qid"), query) != query:
                raise ValueError(f"qid {qid!r} has two queries, {queries[qid]!r} and, in split {split!r}, {query!r}")
        file = folder / "qrels" / f"{split}.tsv"
        file.parent.mkdir(parents=True, exist_ok=True)
        with open(file, "w", encoding="utf-8") as out:
            out.write("query-id\tcorpus-id\tscore\n")
            for row in collection.qrels(split).itertuples():
                out.write(f"{check_id(row.qid, 'qid')}\t{check_id(row.docno, 'docno')}\t{row.label}\n")
    with open(folder / "queries.jsonl", "w", encoding="utf-8") as out:
        out.writelines(_json_line({"_id": qid, "text": query}, f"query {qid!r}") for qid, query in queries.items())


def _json_line(row: dict[str, Any], what: str) -> str:
    try:
        line = json.dumps(row, ensure_ascii=False) + "\n"
    except (TypeError, ValueError, RecursionError) as error:
        raise ValueError(f"{what} cannot be written as JSON: {error}") from error
    if has_surrogates(line):
        raise ValueError(f"{what} cannot be written as UTF-8: it holds a lone surrogate")
    return line


def _refuse_repeated(file: Path, suspects: set[int]) -> None:
    """Raise, naming both lines, if the file has an id twice among those with the hashes given."""
    lines: dict[str, int] = {}
    for row in read_jsonl(file):
        identifier = row.identifier()
        if hash(identifier) in suspects and lines.setdefault(identifier, row.line) != row.line:
            raise row.error(f"'_id' {identifier!r} was there before, in line {lines[identifier]}")
