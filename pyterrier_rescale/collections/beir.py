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

from .._utils.files import expand, whole_folder
from .base import Collection, make_document, order_splits
from .files import Row, check_id, read_jsonl, read_qrels

# Of files of judgements; at the root, only of the first two, where others may hold pairs of texts.
_ENDINGS = (".tsv", ".csv", ".jsonl", ".txt", ".qrels", ".trec")


class BeirCollection(Collection):
    """A collection in a folder of BEIR's format (Thakur et al., NeurIPS 2021); the corpus is streamed.

    Args:
        path: the folder, with ``corpus.jsonl`` (``_id``, ``title``, ``text``), ``queries.jsonl`` (``_id``, ``text``)
            and ``qrels/<split>.tsv`` (query-id, corpus-id, score, under a header or without; ``.csv``, ``.jsonl`` and
            TREC's columns serve as well); each may end in ``.gz``. Hidden files are passed over, byte-order marks and
            CRLF are understood.
        name: default: the folder's name.

    Raises:
        FileNotFoundError: if the folder or its corpus is missing.
    """

    def __init__(self, path: str | os.PathLike[str], name: str | None = None):
        self.path = expand(path)
        if self.path.is_file():
            raise NotADirectoryError(
                f"{str(self.path)!r} is a file, and a collection a folder in BEIR format; a frame of it goes to "
                "load_collection(documents=frame)"
            )
        if not self.path.is_dir():
            raise FileNotFoundError(f"collection folder {str(self.path)!r} does not exist")
        self.name = name or self.path.resolve().name
        self._corpus_file = self._file("corpus.jsonl")

    @cached_property
    def _qrels_files(self) -> dict[str, Path]:
        files: dict[str, Path] = {}
        for folder in (self.path / "qrels", self.path):
            for file in self._plain_files(folder):
                split = file.relative_to(folder).as_posix().removesuffix(".gz").rpartition(".")[0]
                known = {"training": "train"}.get(split.lower(), split.lower())
                split = known if known in ("train", "dev", "test") else split
                endings = _ENDINGS if folder != self.path else _ENDINGS[:2] if split == known else ()
                if file.name.removesuffix(".gz").endswith(endings):
                    files.setdefault(split, file)
        return files

    def _plain_files(self, folder: Path) -> list[Path]:
        """Files of a folder (and, in qrels, of those below it); without hidden ones, such as a Mac's ._test.tsv."""
        found = folder.glob("*") if folder == self.path else folder.rglob("*")
        return [f for f in sorted(found) if f.is_file() and not f.relative_to(folder).as_posix().startswith(".")
                and "/." not in f.relative_to(folder).as_posix()]  # fmt: skip

    def _without_train(self) -> str:
        known = {self._corpus_file, *self._qrels_files.values(), *self.path.glob("queries.jsonl*")}
        others = [f for folder in (self.path / "qrels", self.path) for f in self._plain_files(folder) if f not in known]
        names = ", ".join(file.relative_to(self.path).as_posix() for file in others)
        return super()._without_train() + (f"; not read as judgements: {names}" if names else "")

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits that have qrels."""
        return order_splits(self._qrels_files)

    def corpus(self) -> Iterator[dict[str, str]]:
        """Iterate over the documents, read line by line; the keys of ``metadata`` come along if it is an object.

        Raises:
            ValueError: at a malformed line, an id with white space, or an id that was there before; the message names
                file, line and id.
        """
        for row, docno in _with_ids(self._corpus_file):
            doc = make_document(docno, row.string("title", ""), row.string("text"))
            extra = row.fields.get("metadata")
            yield {**extra, **doc} if isinstance(extra, dict) else doc

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
        for qids, what in ((missing, "judged but missing"), ([q for q, text in rows if not text.strip()], "blank")):
            if qids:
                shown = ", ".join([*map(repr, qids[:3]), *(["..."] if len(qids) > 3 else [])])
                warnings.warn(
                    f"collection {self.name!r}, split {split!r}: {len(qids):,} queries are {what} ({shown})",
                    stacklevel=2,
                )
        return pd.DataFrame(rows, columns=["qid", "query"], dtype=str)

    def qrels(self, split: str = "test") -> pd.DataFrame:
        """Return the judgements of a split: qid (str), docno (str), label (int), in the order of the file.

        Whether the corpus has the documents is not checked: those that it lacks count as relevant and not found, and
        `train_pairs` counts and leaves them out.
        """
        self.check_split(split)
        return read_qrels(self._qrels_files[split])

    @cached_property
    def _queries(self) -> dict[str, str]:
        return {qid: row.string("text") for row, qid in _with_ids(self._file("queries.jsonl"))}

    def _file(self, name: str) -> Path:
        for file in (self.path / name, self.path / f"{name}.gz"):
            if file.is_file():
                return file
        raise FileNotFoundError(f"collection folder {str(self.path)!r} has neither {name} nor {name}.gz")


def _with_ids(file: Path) -> Iterator[tuple[Row, str]]:
    """The rows of a file and their ids, of which none may come twice."""
    seen: set[str] = set()
    for row in read_jsonl(file):
        identifier = row.identifier()
        if identifier in seen:
            raise ValueError(f"{row.where}: '_id' {identifier!r} was there before")
        seen.add(identifier)
        yield row, identifier


def write_beir(collection: Collection, path: str | os.PathLike[str]) -> BeirCollection:
    """Write a collection as a folder in BEIR format and open it.

    The folder is written beside and then renamed: it is whole, or it is not there.

    Args:
        collection: what to write; keys of documents beyond docno, text, title and body go to ``metadata``.
        path: a folder that does not exist yet, or is empty.

    Raises:
        FileExistsError: if there is something in `path` already.
        TypeError, ValueError: for what the format cannot hold, such as ids with white space or one qid with two
            queries.
    """
    with whole_folder(path) as folder:
        with gzip.open(folder / "corpus.jsonl.gz", "wt", encoding="utf-8", compresslevel=4) as out:
            for doc in collection.corpus():
                body = doc.get("body")
                row: dict[str, Any] = {
                    "_id": check_id(doc["docno"], "docno"), "title": doc.get("title") or "",
                    "text": doc["text"] if body is None else body,
                }  # fmt: skip
                extra = {key: value for key, value in doc.items() if key not in ("docno", "text", "title", "body")}
                row = {**row, "metadata": extra} if extra else row
                out.write(json.dumps(row, ensure_ascii=False, default=_plain) + "\n")
        topics = [pd.DataFrame({"_id": [], "text": []})]
        for split in collection.splits:
            file = folder / "qrels" / f"{split}.tsv"
            file.parent.mkdir(parents=True, exist_ok=True)
            qrels = collection.qrels(split)[["qid", "docno", "label"]]
            qrels.to_csv(file, sep="\t", index=False, header=["query-id", "corpus-id", "score"])
            topics.append(collection.topics(split)[["qid", "query"]].set_axis(["_id", "text"], axis=1))
        queries = pd.concat(topics).drop_duplicates()
        for qid, again in zip(queries["_id"], queries["_id"].duplicated(), strict=True):
            check_id(qid, "qid")
            if again:
                raise ValueError(f"qid {qid!r} has other queries in other splits: the format knows one for each qid")
        queries.to_json(folder / "queries.jsonl", orient="records", lines=True, force_ascii=False)
    return BeirCollection(path)


def _plain(value: Any) -> Any:
    """Arrays and numbers of numpy, which frames and Parquet files give, as JSON's."""
    if not hasattr(value, "tolist"):
        raise TypeError(f"documents must hold values that JSON can, got {type(value).__name__}")
    return value.tolist()
