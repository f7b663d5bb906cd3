"""Folders as people and other programs make them: marks, other encodings, damaged archives, ids that cannot travel."""

from __future__ import annotations

import gzip
import itertools
import json
import warnings

import pandas as pd
import pytest

from pyterrier_rescale._utils.seen_ids import SeenIds
from pyterrier_rescale._utils.text_lines import numbered_lines
from pyterrier_rescale.collections import load_collection, write_beir
from pyterrier_rescale.collections.base import Collection, make_document
from pyterrier_rescale.collections.ids import check_id

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


def without_header(text):
    return text.removeprefix(HEADER)


@pytest.mark.parametrize(
    "change",
    [
        lambda text: "\ufeff" + text,
        lambda text: "\ufeff" + without_header(text),
        lambda text: without_header(text),
        lambda text: text.replace("\n", "\r\n"),
        lambda text: "\ufeff" + without_header(text).replace("\n", "\r\n"),
        lambda text: "\n \n" + text.replace("\n", "\n\n"),
        lambda text: text.rstrip("\n"),
        lambda text: "".join("\ufeff" + line for line in text.splitlines(keepends=True)),
    ],
    ids=["mark", "mark, no header", "no header", "crlf", "mark, no header, crlf", "empty lines", "no end", "marks"],
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


def test_qrels_with_more_columns_go_by_the_header(tmp_path):
    text = "query-id\titeration\tcorpus-id\tscore\nq1\t0\td1\t2\nq2\t0\td2\t1\n"
    assert load_collection(folder(tmp_path, {"qrels/test.tsv": text})).qrels().to_dict("list") == LABELS


def test_hidden_files_are_no_splits(tmp_path):
    names = ["._test.tsv", ".test.tsv", "._dev.tsv.gz", "__MACOSX/._test.tsv", ".old/test.tsv", "test.tsv~"]
    changed = {f"qrels/{name}": b"\0\x05\x16\x07Mac OS X" for name in names}
    changed |= {"qrels/dev.small.v1.tsv": FILES["qrels/test.tsv"], "qrels/trec/2019.tsv": FILES["qrels/test.tsv"]}
    collection = load_collection(folder(tmp_path, changed))
    assert collection.splits == ("test", "dev.small.v1", "trec/2019")
    assert collection.qrels("dev.small.v1").to_dict("list") == collection.qrels("trec/2019").to_dict("list") == LABELS


def test_numbers_as_ids_and_missing_titles(tmp_path):
    changed = {
        "corpus.jsonl": '{"_id": 1, "title": null, "text": "purr"}\n{"_id": "02", "text": "bark"}\n',
        "queries.jsonl": '{"_id": 7, "text": "night"}\n',
        "qrels/test.tsv": "7\t1\t1\n7\t02\t1.0\n",
    }
    docs, topics, qrels = read(folder(tmp_path, changed))
    assert [doc["docno"] for doc in docs] == ["1", "02"] and docs[0]["title"] == ""
    assert topics == {"qid": ["7"], "query": ["night"]}
    assert qrels == {"qid": ["7", "7"], "docno": ["1", "02"], "label": [1, 1]}


def latin(text):
    return text.encode("latin-1")


D3 = '{"_id": "d3", "text": '
REFUSED = {
    # corpus
    "latin-1": ("corpus.jsonl", latin(D3 + '"caf\xe9"}'), r"line 3: is not UTF-8 \(byte 0xE9 .*_id 'd3'"),
    "latin-1 title": ("corpus.jsonl", latin('{"_id": 5, "title": "\xfc", "text": ""}'), r"line 3: is not UTF-8.*_id 5"),
    "latin-1 id": ("corpus.jsonl", latin('{"_id": "\xe9", "text": ""}'), r"line 3: is not UTF-8"),
    "utf-16": ("corpus.jsonl", D3.encode("utf-16"), "line 3: (is not UTF-8|holds NUL)"),
    "surrogate": ("corpus.jsonl", D3 + '"a \\ud83d b"}', r"line 3: 'text' holds a lone surrogate.*_id 'd3'"),
    "surrogate title": ("corpus.jsonl", '{"_id": "d3", "title": "\\udc00", "text": ""}', r"line 3: 'title' .*_id 'd3'"),
    "surrogate id": ("corpus.jsonl", '{"_id": "\\ud83d", "text": ""}', "line 3: '_id' must hold no white space"),
    "nul": ("corpus.jsonl", b"\0\0\0\0", "line 3: holds NUL bytes"),
    "trailing comma": ("corpus.jsonl", D3 + '"x"},', "line 3: is not JSON.*nothing after it"),
    "array": ("corpus.jsonl", "[1, 2]", "line 3: must be a JSON object"),
    "pretty": ("corpus.jsonl", "{", "line 3: is not JSON, one object per line"),
    "deep": ("corpus.jsonl", "[" * 100_000, "line 3: is not JSON"),
    "no id": ("corpus.jsonl", '{"id": "d3", "text": ""}', r"line 3: '_id' must be .* keys \['id', 'text'\]"),
    "null id": ("corpus.jsonl", '{"_id": null, "text": ""}', "line 3: '_id' must be a non-empty str, got None"),
    "bool id": ("corpus.jsonl", '{"_id": true, "text": ""}', "line 3: '_id' must be a non-empty str, got True"),
    "float id": ("corpus.jsonl", '{"_id": 1.0, "text": ""}', "line 3: '_id' must be a non-empty str, got 1.0"),
    "empty id": ("corpus.jsonl", '{"_id": "", "text": ""}', "line 3: '_id' must be a non-empty str, got ''"),
    "blank id": ("corpus.jsonl", '{"_id": " ", "text": ""}', "line 3: '_id' must hold no white space"),
    "tab in id": ("corpus.jsonl", '{"_id": "d\\t3", "text": ""}', "line 3: '_id' must hold no white space"),
    "line in id": ("corpus.jsonl", '{"_id": "d3\\n", "text": ""}', "line 3: '_id' must hold no white space"),
    "nbsp in id": ("corpus.jsonl", '{"_id": "d\\u00a03", "text": ""}', "line 3: '_id' must hold no white space"),
    "nul in id": ("corpus.jsonl", '{"_id": "d\\u00003", "text": ""}', "line 3: '_id' must hold no white space"),
    "no text": ("corpus.jsonl", '{"_id": "d3", "body": ""}', r"line 3: 'text' must be .* keys .*'body'.*_id 'd3'"),
    "text a list": ("corpus.jsonl", D3 + '["x"]}', r"line 3: 'text' must be a str, got \['x'\] \(_id 'd3'"),
    "title a number": ("corpus.jsonl", '{"_id": "d3", "title": 7, "text": ""}', r"line 3: 'title' must be"),
    "document twice": ("corpus.jsonl", '{"_id": "d1", "text": ""}', "line 3: '_id' 'd1' was there before, in line 1"),
    # queries
    "query twice": ("queries.jsonl", '{"_id": "q2", "text": ""}', "line 3: '_id' 'q2' was there before, in line 2"),
    "query latin-1": ("queries.jsonl", latin('{"_id": "q3", "text": "\xe9"}'), "line 3: is not UTF-8.*_id 'q3'"),
    "query surrogate": ("queries.jsonl", '{"_id": "q3", "text": "\\ud800"}', "line 3: 'text' holds a lone.*'q3'"),
    "query id": ("queries.jsonl", '{"_id": "q 3", "text": ""}', "line 3: '_id' must hold no white space"),
    "query no text": ("queries.jsonl", '{"_id": "q3"}', "line 3: 'text' must be a str"),
    # qrels
    "spaces": ("qrels/test.tsv", "q1 d2 1", "line 4: must be query-id, corpus-id and a whole score with tabs"),
    "trec": ("qrels/test.tsv", "q1\t0\td2\t1", "line 4: must be query-id, corpus-id and a whole score"),
    "half": ("qrels/test.tsv", "q1\td2\t0.5", "line 4: must be query-id.*a whole score"),
    "nan": ("qrels/test.tsv", "q1\td2\tnan", "line 4: must be query-id"),
    "no qid": ("qrels/test.tsv", "\td2\t1", "line 4: must be query-id"),
    "blank docno": ("qrels/test.tsv", "q1\t \t1", "line 4: corpus-id must hold no white space"),
    "space in qid": ("qrels/test.tsv", "q1 \td2\t1", "line 4: query-id must hold no white space"),
    "qrels latin-1": ("qrels/test.tsv", latin("q\xe9\td2\t1"), "line 4: is not UTF-8"),
    "qrels nul": ("qrels/test.tsv", b"q1\td\0\t1", "line 4: holds NUL bytes"),
    "contradiction": ("qrels/test.tsv", "q1\td1\t0", "line 4: scores document 'd1' for query 'q1' 0, but line 2 .* 2"),
}


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(("name", "line", "message"), REFUSED.values(), ids=REFUSED)
def test_refused_with_file_line_and_id(tmp_path, name, line, message, packed):
    content = FILES[name].encode() + (line if isinstance(line, bytes) else line.encode())
    if packed:
        content, name = gzip.compress(content), f"{name}.gz"
    with pytest.raises(ValueError, match=f"{name}, {message}"):
        read(folder(tmp_path, {name: content}))


@pytest.mark.parametrize("header", ["query-id\tscore\tgrade", "corpus-id\tscore", "qid\tdocno"])
def test_headers_that_lack_a_column(tmp_path, header):
    with pytest.raises(ValueError, match=r"test\.tsv, line 1: the header must name query-id, corpus-id and score"):
        read(folder(tmp_path, {"qrels/test.tsv": f"{header}\nq1\td1\t1\n"}))


@pytest.mark.parametrize("name", ["corpus.jsonl", "queries.jsonl", "qrels/test.tsv"])
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda packed: packed[:-9], r"after line \d+: cannot be read on, the gzip file is damaged or cut"),
        (lambda packed: packed[:15], r"after line \d+: cannot be read on, the gzip file is damaged or cut"),
        (lambda packed: packed[:14] + b"\xff\xff\xff" + packed[17:], "cannot be read on, the gzip file is damaged"),
        (lambda packed: packed[:-8] + b"\0" * 8, "cannot be read on, the gzip file is damaged or cut"),
        (lambda packed: gzip.decompress(packed), "is not a gzip file .it starts with"),
        (lambda packed: b"<html>Not found</html>", "is not a gzip file .it starts with"),
        (lambda packed: b"", "is not a gzip file .it is empty"),
    ],
    ids=["cut", "cut early", "bad stream", "bad sum", "not packed", "error page", "empty"],
)
def test_damaged_archives_are_named(tmp_path, name, damage, message):
    packed = gzip.compress(FILES[name].encode())
    with pytest.raises(ValueError, match=rf"{name}\.gz.*{message}"):
        read(folder(tmp_path, {f"{name}.gz": damage(packed)}))


def test_an_archive_without_its_ending_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"corpus\.jsonl: is gzip, but its name does not end in .gz"):
        read(folder(tmp_path, {"corpus.jsonl": gzip.compress(b"{}")}))


def test_repeated_judgements_count_once(tmp_path):
    text = FILES["qrels/test.tsv"] + "q1\td1\t2\nq1\td1\t2\n"
    collection = load_collection(folder(tmp_path, {"qrels/test.tsv": text}))
    with pytest.warns(UserWarning, match="test.tsv: 2 judgements are repeated; each counts once"):
        assert collection.qrels().to_dict("list") == LABELS


def test_judged_queries_that_are_missing_or_blank_are_told(tmp_path):
    changed = {
        "queries.jsonl": FILES["queries.jsonl"] + '{"_id": "q3", "text": "  "}\n',
        "qrels/test.tsv": FILES["qrels/test.tsv"] + "q3\td1\t1\nq9\td1\t1\n",
    }
    collection = load_collection(folder(tmp_path / "some", changed))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        topics = collection.topics()
    assert list(topics["qid"]) == ["q1", "q2", "q3"]
    assert [str(w.message).partition(": ")[2] for w in caught] == [
        "1 queries are judged but missing ('q9')",
        "1 queries are blank ('q3')",
    ]
    none = load_collection(folder(tmp_path / "none", {"qrels/test.tsv": "1\td1\t1\n2\td1\t1\n"}))
    with pytest.raises(ValueError, match="none of the 2 queries that split 'test' judges, such as '1', is in"):
        none.topics()


def test_repeated_ids_are_found_whatever_lies_between():
    for chunk, first, second in itertools.product((1, 2, 4, 100), (0, 3, 7, 30), (31, 36, 39)):
        ids = [f"d{i}" for i in range(40)]
        ids[second] = ids[first]
        seen = SeenIds(chunk)
        found = set().union(*(seen.add(identifier) for identifier in ids), seen.flush())
        assert found == {hash(f"d{first}")}
    seen = SeenIds(4)
    assert not set().union(*(seen.add(f"d{i}") for i in range(1000)), seen.flush())
    assert sum(map(len, seen._runs)) == 1000 and len(seen._runs) <= 10, "few runs of 8 bytes an id"


def test_repeated_documents_far_apart(tmp_path, monkeypatch):
    monkeypatch.setattr("pyterrier_rescale.collections.beir.SeenIds", lambda: SeenIds(8))
    lines = [json.dumps({"_id": f"d{i % 50}", "text": ""}) for i in range(51)]
    with pytest.raises(ValueError, match=r"corpus\.jsonl, line 51: '_id' 'd0' was there before, in line 1"):
        read(folder(tmp_path, {"corpus.jsonl": "\n".join(lines)}))


def test_hashes_that_collide_are_no_repetition(tmp_path, monkeypatch):
    monkeypatch.setattr("pyterrier_rescale._utils.seen_ids.hash", lambda _: 7, raising=False)
    monkeypatch.setattr("pyterrier_rescale.collections.beir.hash", lambda _: 7, raising=False)
    assert len(read(folder(tmp_path))[0]) == 2


@pytest.mark.parametrize("value", ["d1", "<dbpedia:Café_(band)>", "日本", 12])
def test_good_ids(value):
    assert check_id(value, "docno") == str(value)


class Made(Collection):
    """A collection of someone's own, with one thing that the format cannot hold."""

    name, splits = "made", ("test",)

    def __init__(self, **changed):
        self.doc = {**make_document("d1", "Cats", "purr"), **changed.get("doc", {})}
        self.topic = {"qid": "q1", "query": "night", **changed.get("topic", {})}
        self.splits = changed.get("splits", ("test",))

    def corpus(self):
        yield self.doc

    def topics(self, split="test"):
        query = self.topic["query"] if split == "test" else "another"
        return pd.DataFrame([{**self.topic, "query": query}], dtype=object)

    def qrels(self, split="test"):
        return pd.DataFrame({"qid": [self.topic["qid"]], "docno": [self.doc["docno"]], "label": [1]})


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"doc": {"docno": "d 1"}}, "docno must hold no white space"),
        ({"doc": {"docno": "d\t1"}}, "docno must hold no white space"),
        ({"doc": {"body": "\ud800"}}, "document 'd1' cannot be written as UTF-8"),
        ({"doc": {"picture": b"x"}}, "document 'd1' cannot be written as JSON"),
        ({"topic": {"qid": "q\n1"}}, "qid must hold no white space"),
        ({"topic": {"query": "\ud800"}}, "query 'q1' cannot be written as UTF-8"),
        ({"splits": ("test", "other")}, "qid 'q1' has two queries, 'night' and, in split 'other', 'another'"),
        ({"splits": ("../test",)}, "split '../test' of 'made' cannot name a file"),
    ],
)
def test_write_beir_refuses_what_cannot_be_read_back(tmp_path, changed, message):
    with pytest.raises(ValueError, match=message):
        write_beir(Made(**changed), tmp_path / "out")
    assert not list(tmp_path.iterdir())


def test_write_beir_of_documents_with_text_alone(tmp_path):
    made = Made(splits=("trec/2019",))
    made.doc = {"docno": "d1", "text": "purr"}
    written = write_beir(made, tmp_path / "out")
    assert written.splits == ("trec/2019",) and [doc["text"] for doc in written.corpus()] == ["purr"]


def test_lines_are_read_one_by_one(tmp_path):
    (tmp_path / "long.txt").write_bytes(b"a\r\nb\r\xff\n")
    lines = numbered_lines(tmp_path / "long.txt")
    assert [next(lines), next(lines)] == [(1, "a"), (2, "b")]
    with pytest.raises(ValueError, match=r"long\.txt, line 3: is not UTF-8 \(byte 0xFF at character 1\)"):
        next(lines)
