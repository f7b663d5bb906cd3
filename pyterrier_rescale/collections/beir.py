"""Collections in folders of BEIR's format: corpus.jsonl, queries.jsonl and qrels/<split>.tsv, each plain or .gz."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, TextIO

import pandas as pd

from .._utils.paths import whole_folder
from .base import Collection, make_document, order_splits


class BeirCollection(Collection):
    """A collection in a folder of BEIR's format (Thakur et al., NeurIPS 2021); the corpus is streamed.

    Args:
        path: the folder, with ``corpus.jsonl`` (``_id``, ``title``, ``text``), ``queries.jsonl`` (``_id``, ``text``)
            and ``qrels/<split>.tsv`` (a header, then query-id, corpus-id, score); each may end in ``.gz``.
        name: default: the folder's name.

    Raises:
        FileNotFoundError: if the folder or its corpus is missing.
    """

    def __init__(self, path: str | os.PathLike[str], name: str | None = None):
        self.path = Path(path).expanduser()
        if not self.path.is_dir():
            raise FileNotFoundError(f"collection folder {str(self.path)!r} does not exist")
        self.name = name or self.path.resolve().name
        self._corpus_file = self._file("corpus.jsonl")

    @cached_property
    def _qrels_files(self) -> dict[str, Path]:
        files: dict[str, Path] = {}
        for file in sorted((self.path / "qrels").glob("*.tsv*")):
            if file.name.endswith((".tsv", ".tsv.gz")):
                files.setdefault(file.name.removesuffix(".gz").removesuffix(".tsv"), file)
        return files

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that have qrels."""
        return order_splits(set(self._qrels_files))

    def corpus(self) -> Iterator[dict[str, str]]:
        """Iterate over the documents, read line by line; the keys of ``metadata`` come along if it is an object.

        Raises:
            ValueError: at a malformed line; the message names file and line.
        """
        for where, row in _read_jsonl(self._corpus_file):
            doc = make_document(_identifier(row, where), _string(row, "title", where, ""), _string(row, "text", where))
            extra = row.get("metadata")
            yield {**extra, **doc} if isinstance(extra, dict) else doc

    def topics(self, split: str = "test") -> pd.DataFrame:
        """Return the queries that the qrels of a split judge: qid (str), query (str), in the order of the file."""
        judged = set(self.qrels(split)["qid"])
        rows = [(qid, query) for qid, query in self._queries.items() if qid in judged]
        return pd.DataFrame(rows, columns=["qid", "query"], dtype=str)

    def qrels(self, split: str = "test") -> pd.DataFrame:
        """Return the judgements of a split: qid (str), docno (str), label (int), in the order of the file."""
        self.check_split(split)
        qids, docnos, labels = [], [], []
        file = self._qrels_files[split]
        with _open_text(file) as lines:
            for number, line in enumerate(_guarded(lines, file), start=1):
                cells = line.rstrip("\r\n").split("\t")
                if cells == [""] or (number == 1 and len(cells) == 3 and not _is_int(cells[2])):
                    continue  # a blank line, or the header
                if len(cells) != 3 or not _is_int(cells[2]) or not cells[0] or not cells[1]:
                    raise ValueError(
                        f"{file}, line {number}: must be query-id, corpus-id and a whole score with tabs between, "
                        f"got {line.strip()[:80]!r}"
                    )
                qids.append(cells[0])
                docnos.append(cells[1])
                labels.append(int(float(cells[2])))
        frame = pd.DataFrame({"qid": qids, "docno": docnos}, dtype=str)
        return frame.assign(label=pd.Series(labels, dtype="int64"))

    @cached_property
    def _queries(self) -> dict[str, str]:
        rows = _read_jsonl(self._file("queries.jsonl"))
        return {_identifier(row, where): _string(row, "text", where) for where, row in rows}

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
    """
    with whole_folder(path) as folder:
        write_beir_files(collection, folder)
    return BeirCollection(path)


def write_beir_files(collection: Collection, folder: Path) -> None:
    """Write the files of BEIR's format into a folder that exists."""
    with gzip.open(folder / "corpus.jsonl.gz", "wt", encoding="utf-8", compresslevel=4) as out:
        for doc in collection.corpus():
            row: dict[str, Any] = {"_id": doc["docno"], "title": doc["title"], "text": doc["body"]}
            extra = {key: value for key, value in doc.items() if key not in ("docno", "text", "title", "body")}
            if extra:
                row["metadata"] = extra
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    (folder / "qrels").mkdir()
    queries: dict[str, str] = {}
    for split in collection.splits:
        topics = collection.topics(split)
        queries.update(zip(topics["qid"], topics["query"], strict=True))
        with open(folder / "qrels" / f"{split}.tsv", "w", encoding="utf-8") as out:
            out.write("query-id\tcorpus-id\tscore\n")
            out.writelines(f"{row.qid}\t{row.docno}\t{row.label}\n" for row in collection.qrels(split).itertuples())
    with open(folder / "queries.jsonl", "w", encoding="utf-8") as out:
        out.writelines(json.dumps({"_id": k, "text": v}, ensure_ascii=False) + "\n" for k, v in queries.items())


def _open_text(file: Path) -> TextIO:
    return gzip.open(file, "rt", encoding="utf-8") if file.suffix == ".gz" else open(file, encoding="utf-8")


def _guarded(lines: TextIO, file: Path) -> Iterator[str]:
    """Pass lines on; what goes wrong below them (cut archive, other encoding) names the file."""
    number = 0
    try:
        for number, line in enumerate(lines, start=1):  # noqa: B007
            yield line
    except (EOFError, gzip.BadGzipFile, UnicodeDecodeError) as error:
        raise ValueError(f"{file}, after line {number}: cannot be read on: {error}") from error


def _read_jsonl(file: Path) -> Iterator[tuple[tuple[Path, int], dict[str, Any]]]:
    with _open_text(file) as lines:
        for number, line in enumerate(_guarded(lines, file), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise ValueError(f"{file}, line {number}: is not JSON: {error}") from error
            if not isinstance(row, dict):
                raise ValueError(f"{file}, line {number}: must be a JSON object, got {line.strip()[:80]!r}")
            yield (file, number), row


def _identifier(row: dict[str, Any], where: tuple[Path, int]) -> str:
    value = row.get("_id")
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str) or not value:
        raise ValueError(f"{where[0]}, line {where[1]}: '_id' must be a non-empty str, got {value!r}")
    return value


def _string(row: dict[str, Any], key: str, where: tuple[Path, int], default: str | None = None) -> str:
    value = row.get(key)
    if value is None and default is not None:
        return default
    if not isinstance(value, str):
        raise ValueError(f"{where[0]}, line {where[1]}: {key!r} must be a str, got {value!r}")
    return value


def _is_int(cell: str) -> bool:
    try:
        return float(cell).is_integer()
    except ValueError:
        return False
