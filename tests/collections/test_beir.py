"""Folders in BEIR's format, as people and other programs make them; what is refused names its file and line."""

from __future__ import annotations

import gzip
import itertools
import json

import numpy as np
import pytest

from pyterrier_rescale.collections import BeirCollection, load_collection, write_beir

HEADER = "query-id\tcorpus-id\tscore\n"
FILES = {
    "corpus.jsonl": '{"_id": "d1", "title": "Cats", "text": "purr"}\n{"_id": "d2", "text": "dogs bark"}\n',
    "queries.jsonl": '{"_id": "q1", "text": "night"}\n{"_id": "q2", "text": "noise"}\n',
    "qrels/test.tsv": HEADER + "q1\td1\t2\nq2\td2\t1\n",
}
LABELS = {"qid": ["q1", "q2"], "docno": ["d1", "d2"], "label": [2, 1]}


def folder(path, changed=None):
    """A good folder but for the files given, as str or bytes; a name ending in .gz replaces the plain file."""
    files = {**FILES, **(changed or {})}
    for name in changed or {}:
        if name.endswith(".gz"):
            files.pop(name.removesuffix(".gz"), None)
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path):
    """Everything of a folder: documents, topics, qrels."""
    collection = load_collection(path)
    return list(collection.corpus()), collection.topics().to_dict("list"), collection.qrels().to_dict("list")


def test_a_folder(tmp_path):
    changed = {"queries.jsonl": '{"_id": "q2", "text": "noise"}\n{"_id": "q1", "text": "night"}\n{"_id":3, "text": ""}'}
    changed["corpus.jsonl"] = FILES["corpus.jsonl"] + '{"_id": 4, "title": null, "text": "", "metadata": {"by": "zoo"}}'
    changed["qrels/test.tsv"] = FILES["qrels/test.tsv"] + "q1\td1\t2.0\nq1\td1\t2\n"  # a repeated one counts once
    collection = load_collection(folder(tmp_path / "zoo", changed))
    assert (collection.name, collection.splits, repr(collection)) == ("zoo", ("test",), "BeirCollection('zoo')")
    docs = list(collection.corpus())
    assert docs[0] == {"docno": "d1", "text": "Cats purr", "title": "Cats", "body": "purr"}
    assert docs[1] == {"docno": "d2", "text": "dogs bark", "title": "", "body": "dogs bark"}
    assert docs[2] == {"docno": "4", "text": "", "title": "", "body": "", "by": "zoo"}
    assert list(collection.corpus()) == docs, "a second pass starts afresh"
    # the order of the file, and only what the split judges
    assert collection.topics().to_dict("list") == {"qid": ["q2", "q1"], "query": ["noise", "night"]}
    assert collection.qrels().to_dict("list") == LABELS and collection.qrels()["label"].dtype == "int64"


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: "\ufeff" + text.removeprefix(HEADER),
        lambda text: text.removeprefix(HEADER),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\n \n" + text.replace("\n", "\n\n"),
        lambda text: text.rstrip("\n"),
        lambda text: "".join("\ufeff" + line for line in text.splitlines(keepends=True)),
    ],
    ids=["mark", "mark, no header", "no header", "crlf", "empty lines", "no end", "marks"],
)
@pytest.mark.parametrize("packed", [False, True])
def test_marks_and_line_ends_change_nothing(tmp_path, change, packed):
    changed = {name: change(content).encode() for name, content in FILES.items()}
    if packed:
        changed = {f"{name}.gz": gzip.compress(content) for name, content in changed.items()}
    assert read(folder(tmp_path / "dirty", changed)) == read(folder(tmp_path / "clean"))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("header", ["query-id corpus-id score", "qid docno label", "Query_ID doc_id relevance"])
def test_qrels_columns_go_by_their_names(tmp_path, order, header):
    # ids that are numbers: nothing but the header tells the columns apart
    rows = [header.split(), ("1", "10", "2"), ("2", "20", "0")]
    text = "".join("\t".join(row[i] for i in order) + "\n" for row in rows)
    qrels = load_collection(folder(tmp_path, {"qrels/test.tsv": text})).qrels()
    assert qrels.to_dict("list") == {"qid": ["1", "2"], "docno": ["10", "20"], "label": [2, 0]}


TRAIN = {
    "train.jsonl": '{"query-id": "q2", "corpus-id": "d2", "score": 1}\n{"qid": "q1", "docno": "d1", "label": "2"}\n',
    "train.csv": 'query-id,corpus-id,score\n"q2",d2,1\nq1,"d1",2.0\n',
    "train.tsv": '"q2"\t"d2"\t1\n"q1"\t"d1"\t2\n',
    "train.qrels": "q2 0 d2 1\nq1 Q0 d1 2\n",
}


@pytest.mark.parametrize("name", TRAIN)
@pytest.mark.parametrize("packed", [False, True])
def test_judgements_to_train_on_in_other_forms(tmp_path, name, packed):
    content = TRAIN[name].encode()
    name = f"qrels/{name}"
    changed = {f"{name}.gz": gzip.compress(content)} if packed else {name: content}
    collection = load_collection(folder(tmp_path, changed))
    assert collection.splits == ("train", "test")
    assert collection.train_pairs() == [("noise", "dogs bark"), ("night", "Cats purr")]
    assert collection.qrels("train")["label"].tolist() == [1, 2] and collection.qrels().to_dict("list") == LABELS


def test_hidden_files_are_no_splits(tmp_path):
    names = ["._test.tsv", ".test.tsv", "._dev.tsv.gz", "__MACOSX/._test.tsv", ".old/test.tsv", "test.tsv~"]
    changed = {f"qrels/{name}": b"\0\x05\x16\x07Mac OS X" for name in names}
    changed |= {"qrels/dev.small.v1.tsv": FILES["qrels/test.tsv"], "qrels/trec/2019.tsv": FILES["qrels/test.tsv"]}
    collection = load_collection(folder(tmp_path, changed))
    assert collection.splits == ("test", "dev.small.v1", "trec/2019")
    assert collection.qrels("dev.small.v1").to_dict("list") == collection.qrels("trec/2019").to_dict("list") == LABELS


D3 = '{"_id": "d3", "text": '
REFUSED = {
    # one more line in the file -> what the message names beside file and line
    "latin-1": ("corpus.jsonl", (D3 + '"caf\xe9"}').encode("latin-1"), "UTF-8"),
    "nul": ("corpus.jsonl", b"\0\0\0\0", "JSON"),
    "no id": ("corpus.jsonl", '{"key": "d3", "text": ""}', "_id"),
    "empty id": ("corpus.jsonl", '{"_id": "", "text": ""}', "docno"),
    "tab in id": ("corpus.jsonl", '{"_id": "d\\t3", "text": ""}', "docno"),
    "no text": ("corpus.jsonl", '{"_id": "d3", "content": null}', "text.*d3"),
    "title a number": ("corpus.jsonl", '{"_id": "d3", "title": 7, "text": ""}', "title.*d3"),
    "document twice": ("corpus.jsonl", '{"_id": "d1", "text": ""}', "d1"),
    "query twice": ("queries.jsonl", '{"_id": "q2", "text": ""}', "q2"),
    "cells": ("qrels/test.tsv", "q1\td2", "score"),
    "no column": ("corpus.jsonl", '{"_id": "d3"}', "content"),
    "half": ("qrels/test.tsv", "q1\td2\t0.5", "label"),
    "space in docno": ("qrels/test.tsv", "q1\td 2\t1", "docno"),
    "contradiction": ("qrels/test.tsv", "q1\td1\t0", "d1"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("name", "line", "named"), REFUSED.values(), ids=REFUSED)
def test_refused_with_file_and_line(tmp_path, name, line, named, packed):
    number = FILES[name].count("\n") + 1
    content = FILES[name].encode() + (line if isinstance(line, bytes) else line.encode())
    if packed:
        content, name = gzip.compress(content), f"{name}.gz"
    with pytest.raises(ValueError, match=f"(?s){name}, line {number}: .*({named})"):
        read(folder(tmp_path, {name: content}))


@pytest.mark.parametrize(
    "damage",
    [lambda packed: packed[:-9], lambda packed: packed[:-8] + b"\0" * 8, lambda packed: b"<html>"],
    ids=["cut", "bad sum", "error page"],
)
def test_damaged_archives_are_named(tmp_path, damage):
    for name in FILES:
        packed = damage(gzip.compress(FILES[name].encode()))
        with pytest.raises(ValueError, match=rf"{name}\.gz"):
            read(folder(tmp_path / name[:5], {f"{name}.gz": packed}))


def test_judged_queries_that_are_missing_or_blank_are_told(tmp_path):
    changed = {
        "queries.jsonl": FILES["queries.jsonl"] + '{"_id": "q3", "text": "  "}\n',
        "qrels/test.tsv": FILES["qrels/test.tsv"] + "q3\td1\t1\nq9\td1\t1\n",
    }
    collection = load_collection(folder(tmp_path / "some", changed))
    with pytest.warns(UserWarning, match="2 of 4 judged queries are missing or blank, such as .'q3'"):
        topics = collection.topics()
    assert list(topics["qid"]) == ["q1", "q2", "q3"]
    none = load_collection(folder(tmp_path / "none", {"qrels/test.tsv": "1\td1\t1\n2\td1\t1\n"}))
    with pytest.raises(ValueError, match="2 of 2 judged queries are missing"):
        none.topics()


def test_written_and_read_it_is_the_same(tmp_path):
    more = '{"_id": "d3", "text": "\\"quoted\\" caf\xe9", "metadata": {"source": "zoo"}}\n'
    changed = {"corpus.jsonl": FILES["corpus.jsonl"] + more, "qrels/trec/2019.tsv": FILES["qrels/test.tsv"]}
    first = load_collection(folder(tmp_path / "zoo", changed))
    second = write_beir(first, tmp_path / "copy" / "zoo")
    assert isinstance(second, BeirCollection) and list(second.corpus()) == list(first.corpus())
    assert read(tmp_path / "copy" / "zoo") == read(tmp_path / "zoo") and second.splits == ("test", "trec/2019")
    with gzip.open(tmp_path / "copy" / "zoo" / "corpus.jsonl.gz", "rt") as lines:
        assert json.loads(next(lines)) == {"_id": "d1", "title": "Cats", "text": "purr"}
    assert (tmp_path / "copy" / "zoo" / "qrels" / "test.tsv").read_text() == FILES["qrels/test.tsv"]
    with pytest.raises(FileExistsError):
        write_beir(first, tmp_path / "copy" / "zoo")
    arrays = load_collection(documents=[{"docno": "d1", "text": "purr", "tags": np.array([1, 2])}])
    assert next(write_beir(arrays, tmp_path / "arrays").corpus())["tags"] == [1, 2]


def test_what_json_cannot_hold_is_not_written(tmp_path):
    with pytest.raises(AttributeError, match="bytes"):
        write_beir(load_collection(documents=[{"docno": "d1", "text": "", "picture": b"x"}]), tmp_path / "out")
    assert not list(tmp_path.iterdir())
