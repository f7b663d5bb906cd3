"""Training data of ids: every form gives the rows that its texts would, and what is missing is counted."""

from __future__ import annotations

import gzip
import json
from typing import NamedTuple

import numpy as np
import pandas as pd
import pytest

from pyterrier_rescale import train
from pyterrier_rescale.collections import BeirCollection
from pyterrier_rescale.training.data.loading import load_rows
from pyterrier_rescale.training.data.rows import Row, text_id

DOCUMENTS = [{"docno": f"{i}", "text": f"d{i}"} for i in range(1, 7)] + [{"docno": "9", "text": "  "}]
TOPICS = {"1": "q1", "2": "q2", "3": " "}
TEXTS = (DOCUMENTS, TOPICS)
FRAMES = (pd.DataFrame(DOCUMENTS), pd.DataFrame(TOPICS.items(), columns=["qid", "query"]))
TRIPLES = [("1", "2", "3"), ("2", "4", "5")]
ROWS = [Row("q1", ("d2", "d3")), Row("q2", ("d4", "d5"))]


class DocPair(NamedTuple):
    query_id: str
    doc_id_a: str
    doc_id_b: str


FRAME = pd.DataFrame(TRIPLES, columns=["qid", "docno", "negative"])


@pytest.mark.parametrize(
    "data",
    [
        TRIPLES,
        [tuple(map(int, row)) for row in TRIPLES],
        [tuple(map(np.int64, row)) for row in TRIPLES],
        [DocPair(*row) for row in TRIPLES],
        [{"qid": q, "docno": p, "negatives": [n]} for q, p, n in TRIPLES],
        FRAME,
        FRAME.assign(query="the text itself", negative=FRAME["negative"].astype(float)),
        FRAME.rename(columns={"qid": "query_id", "docno": "positive_id", "negative": "negative_id"}),
        FRAME.rename(columns={"qid": "query", "docno": "positive"}),
    ],
)
@pytest.mark.parametrize("texts", [TEXTS, FRAMES])
def test_forms(data, texts):
    rows = load_rows(data, texts)
    assert list(rows) == ROWS and rows.skipped == {}
    assert rows.positives("q1") == {text_id("d2")}


def test_hugging_face_dataset():
    from datasets import Dataset

    assert list(load_rows(Dataset.from_pandas(FRAME), TEXTS)) == ROWS


@pytest.mark.parametrize("compress", [False, True])
def test_files(tmp_path, compress):
    plain = "\n".join("\t".join(row) for row in TRIPLES) + "\n"
    objects = "\n".join(json.dumps({"qid": int(q), "docno": int(p), "negative": int(n)}) for q, p, n in TRIPLES)
    lists = "\n".join(json.dumps([*map(int, row), [2.0, 1.0]]) for row in TRIPLES)
    for name, text in (("a.tsv", plain), ("b.tsv", "qid\tdocno\tnegative\n" + plain), ("c.jsonl", objects)):
        path = tmp_path / (name + (".gz" if compress else ""))
        path.write_bytes(gzip.compress(text.encode()) if compress else text.encode())
        assert list(load_rows(path, TEXTS)) == ROWS
    (tmp_path / "d.jsonl").write_text(lists)
    assert [row.scores for row in load_rows(tmp_path / "d.jsonl", TEXTS)] == [(2.0, 1.0)] * 2


def test_scores_and_several_negatives():
    rows = load_rows([("1", "2", "3", "4", np.array([3, 2, 1])), ("2", "4", "5")], TEXTS)
    assert list(rows) == [Row("q1", ("d2", "d3", "d4"), (3.0, 2.0, 1.0)), Row("q2", ("d4", "d5"))]
    assert rows.facts.negatives == (1, 2, 1) and rows.facts.unscored == 1
    with pytest.raises(ValueError, match="row 0 of data: 2 documents need 2 scores, got 3"):
        load_rows([("1", "2", "3", [3, 2, 1])], TEXTS)


def test_what_is_missing_is_counted():
    data = [*TRIPLES, ("8", "2", "3"), ("1", "77", "3"), ("1", "2", None), ("3", "2", "3"), ("1", "2", "9"),
            ("1", "2", "3", [1.0, float("nan")])]  # fmt: skip
    with pytest.warns(UserWarning, match="6 training rows dropped .*2 are left"):
        rows = load_rows(data, TEXTS)
    assert list(rows) == ROWS
    assert rows.skipped == {
        "a missing id": 1, "a missing teacher score": 1, "a query id that texts does not know": 1,
        "a document id that texts does not know": 1, "a blank query": 1, "a blank document": 1,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("data", "texts", "error", "message"),
    [
        ([], TEXTS, ValueError, "at least one row of ids that texts knows, but it is empty"),
        ([("x", "y")], TEXTS, ValueError, "all 1 rows were dropped; its first ids are 'x' and 'y'"),
        (TRIPLES, "msmarco", TypeError, r"texts must be a collection or a tuple \(documents, topics\), got str"),
        (TRIPLES, (["d1"], TOPICS), ValueError, "documents must be dicts with docno and text, got 'd1'"),
        (TRIPLES, (DOCUMENTS, ["q1"]), ValueError, "topics must be a frame with columns 'qid' and 'query'"),
        ([("1",)], TEXTS, ValueError, r"row 0 of data must hold a query and a positive, got 1 id\(s\)"),
        (pd.DataFrame({"docno": ["1"]}), TEXTS, ValueError, "no query column .one of qid, query_id"),
        ("no-such.tsv", TEXTS, FileNotFoundError, "does not exist"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*training rows dropped")
def test_refused(data, texts, error, message):
    with pytest.raises(error, match=message):
        load_rows(data, texts)


@pytest.fixture
def collection(tmp_path):
    folder = tmp_path / "tiny-collection"
    (folder / "qrels").mkdir(parents=True)
    documents = (json.dumps({"_id": d["docno"], "title": "", "text": f"text {d['text']}"}) for d in DOCUMENTS[:6])
    (folder / "corpus.jsonl").write_text("\n".join(documents))
    (folder / "queries.jsonl").write_text("\n".join(json.dumps({"_id": q, "text": f"find {t}"}) for q, t in
                                                    list(TOPICS.items())[:2]))  # fmt: skip
    (folder / "qrels" / "train.tsv").write_text("query-id\tcorpus-id\tscore\n1\t2\t1\n")
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\n2\t4\t1\n")
    return folder


def test_collection_gives_the_topics_of_all_splits(collection):
    rows = load_rows(TRIPLES, BeirCollection(collection))
    assert list(rows)[1] == Row("find q2", ("text d4", "text d5"))
    with pytest.raises(TypeError, match="leave texts out"):
        load_rows(BeirCollection(collection), BeirCollection(collection))


def test_trains_at_the_command_line(collection, bert_folder, tmp_path):
    from pyterrier_rescale.cli import main

    (tmp_path / "triples.tsv").write_text("\n".join("\t".join(row) for row in [*TRIPLES, ("1", "2", "77")]))
    arguments = ["train", bert_folder, str(tmp_path / "triples.tsv"), str(tmp_path / "out"), "--texts", str(collection),
                 "--max-steps", "2", "--batch-size", "2", "--max-length", "16", "--quiet"]  # fmt: skip
    with pytest.warns(UserWarning, match="1 with a document id that texts does not know"):
        with pytest.raises(SystemExit) as stop:
            main(arguments)
    assert not stop.value.code
    card = (tmp_path / "out" / "README.md").read_text()
    assert "`triples.tsv`, texts from `tiny-collection`: 2 rows" in card
    assert "left out: 1 with a document id that texts does not know." in card
    assert " triples.tsv splade --texts tiny-collection --config train_config.json" in card
    assert str(tmp_path) not in card


def test_train_takes_ids(bert_folder, tmp_path):
    splade = train(bert_folder, TRIPLES, tmp_path / "out", texts=TEXTS, max_steps=1, batch_size=2, max_length=16,
                   ramp_steps=100, verbose=False)  # fmt: skip
    assert splade.encode_docs(["d1"]).nnz > 0


JUDGED = [Row("q1", ("d2",)), Row("q2", ("d4",))]
QRELS = pd.DataFrame({"qid": ["1", "1", "2"], "docno": ["2", "3", "4"], "label": [1, 0, 2]})


class TrecQrel(NamedTuple):
    query_id: str
    doc_id: str
    relevance: int
    iteration: str


def qrels_forms(tmp_path):
    rows = list(QRELS.itertuples(index=False, name=None))
    files = {
        "trec.tsv": "".join(f"{q}\t0\t{d}\t{label}\n" for q, d, label in rows),
        "spaces.tsv": "".join(f"{q} Q0 {d} {label}\n" for q, d, label in rows),
        "beir.tsv": "query-id\tcorpus-id\tscore\n" + "".join(f"{q}\t{d}\t{label}\n" for q, d, label in rows),
        "mark.tsv": "\ufeffcorpus-id\tquery-id\tscore\n" + "".join(f"{d}\t{q}\t{label}\n" for q, d, label in rows),
        "beir.jsonl": "".join(json.dumps({"query-id": q, "corpus-id": d, "score": s}) + "\n" for q, d, s in rows),
    }
    for name, text in files.items():
        (tmp_path / name).write_text(text)
        yield tmp_path / name
    (tmp_path / "trec.tsv.gz").write_bytes(gzip.compress(files["trec.tsv"].encode()))
    yield tmp_path / "trec.tsv.gz"
    yield QRELS
    yield QRELS.rename(columns={"label": "relevance"}).assign(iteration="0")
    yield [TrecQrel(q, d, label, "0") for q, d, label in rows]


@pytest.mark.parametrize("number", range(9))
@pytest.mark.filterwarnings("ignore:.*training rows dropped")
def test_judgements_are_ids(number, tmp_path):
    data = list(qrels_forms(tmp_path))[number]
    rows = load_rows(data, TEXTS)
    assert list(rows) == JUDGED and rows.skipped == {"a label that is not above 0": 1}
    with pytest.raises(ValueError, match="texts="):
        load_rows(data)


def test_runs_and_scores_are_no_judgements():
    run = QRELS.rename(columns={"label": "score"}).assign(rank=0)
    with pytest.raises(ValueError, match="hold a run"):
        load_rows(run, TEXTS)
    with pytest.raises(ValueError, match="label must be an integer, got 12.3"):
        load_rows(QRELS.drop(columns="label").assign(score=12.3), TEXTS)


@pytest.mark.parametrize("ending", [".tsv", ".tsv.gz"])
def test_judgements_of_three_columns(ending, tmp_path):
    path = tmp_path / f"qrels{ending}"
    text = "1\t10\t1\n1\t11\t0\n2\t11\t2\n"
    path.write_bytes(gzip.compress(text.encode()) if ending.endswith("gz") else text.encode())
    texts = ([{"docno": "10", "text": "ten"}, {"docno": "11", "text": "eleven"}], {"1": "one", "2": "two"})
    assert [row[:2] for row in load_rows(path, texts)] == [("one", ("ten",)), ("two", ("eleven",))]
    path = tmp_path / "triples.tsv"
    path.write_text("1\t10\t11\n2\t11\t10\n")
    assert [row.documents for row in load_rows(path, texts)] == [("ten", "eleven"), ("eleven", "ten")]
    path.write_text("1\t10\t11\t2.5\n2\t11\t10\t-0.5\n")
    assert [row.scores for row in load_rows(path, texts)] == [(2.5, 0), (-0.5, 0)]


def test_texts_that_contradict_each_other_or_are_broken():
    qrels = pd.DataFrame({"qid": ["q"], "docno": ["d"], "relevance": [1]})
    twice = [{"docno": "d", "text": "one"}, {"docno": "d", "text": "two"}]
    with pytest.raises(ValueError, match="'d' occurs twice, with different texts: 'one' and 'two'"):
        load_rows(qrels, (twice, {"q": "a query"}))
    assert len(load_rows(qrels, (twice[:1] * 2, {"q": "a query"}))) == 1
    with pytest.raises(ValueError, match="that of 'd' holds a lone surrogate"):
        load_rows(qrels, ([{"docno": "d", "text": "half \ud83d"}], {"q": "a query"}))
