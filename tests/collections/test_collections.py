"""Training pairs, samples, names, and one's own data."""

from __future__ import annotations

import json
import re
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from pyterrier_rescale.collections import BeirCollection, load_collection
from pyterrier_rescale.collections.base import Collection
from pyterrier_rescale.collections.named import IrdsCollection, NamedCollection

DOCS = [
    {"docno": "d1", "title": "Cats", "text": "purr at night"},
    {"docno": "d2", "title": "", "text": "dogs bark"},
    {"docno": "d3", "title": "Empty body", "text": ""},
    {"docno": "d4", "title": "Birds", "text": 'sing "at"\ndawn, loud'},
]
TOPICS = [{"qid": "q2", "query": "barking"}, {"qid": "q1", "query": "night noise"}, {"qid": "q3", "query": "song"}]
TEST = [{"qid": "q1", "docno": "d1", "label": 2}, {"qid": "q2", "docno": "d2", "label": 1}]


def own(documents=DOCS, topics=TOPICS, qrels=TEST, **options):
    return load_collection(documents=documents, topics=topics, qrels=qrels, **options)


def in_files(folder, ending):
    """The data as CSV, TSV or JSONL, under names that other people use."""
    tables = {
        "documents": pd.DataFrame(DOCS).set_axis(["Doc_ID", "Title", "content"], axis=1),
        "topics": pd.DataFrame(TOPICS).set_axis(["query-id", "text"], axis=1),
        "qrels": pd.DataFrame(TEST).set_axis(["query_id", "doc_id", "relevance"], axis=1),
    }
    for name, table in tables.items():
        if ending == ".TSV":
            table = table.replace("\n", " ", regex=True)
        if "json" in ending.lower():
            table.to_json(folder / f"{name}{ending}", orient="records", lines=True)
        else:
            table.to_csv(folder / f"{name}{ending}", index=False, sep="\t" if ending == ".TSV" else ",")
    return {name: str(folder / f"{name}{ending}") for name in tables}


FORMS = {
    "dicts": lambda _: own(),
    "frames": lambda _: own(pd.DataFrame(DOCS), pd.DataFrame(TOPICS), pd.DataFrame(TEST)),
    "generators": lambda _: own(iter(DOCS), iter(TOPICS), iter(TEST)),
    "labels as strings": lambda _: own(qrels=[{**row, "label": str(row["label"])} for row in TEST]),
    "nullable": lambda _: own(
        pd.DataFrame(DOCS).replace("", pd.NA).convert_dtypes().assign(text=[d["text"] for d in DOCS]),
        pd.DataFrame(TOPICS).convert_dtypes(), pd.DataFrame(TEST).convert_dtypes(),
    ),
    "numbers of numpy": lambda _: own(qrels=[{**row, "label": np.float64(row["label"])} for row in TEST]),
    "a corpus()": lambda _: own(list(own().corpus())),
    "splits": lambda _: own(qrels={"test": TEST}),
    **{f"files{end}": lambda f, end=end: load_collection(**in_files(f, end)) for end in (".csv", ".TSV", ".NDJSON")},
    **{f"folder{end}": lambda f, end=end: in_files(f, end) and load_collection(f) for end in (".csv.gz", ".jsonl.gz")},
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_data_of_ones_own(form, tmp_path):
    collection = FORMS[form](tmp_path)
    docs = list(collection.corpus())
    assert docs[0] == {"docno": "d1", "text": "Cats purr at night", "title": "Cats", "body": "purr at night"}
    assert docs[1] == {"docno": "d2", "text": "dogs bark", "title": "", "body": "dogs bark"}
    assert docs[3]["body"].split() == DOCS[3]["text"].split()
    assert list(collection.corpus()) == docs and collection.splits == ("test",)
    for _ in range(2):
        assert collection.topics().to_dict("list") == {"qid": ["q2", "q1"], "query": ["barking", "night noise"]}
        assert collection.qrels().to_dict("list") == {"qid": ["q1", "q2"], "docno": ["d1", "d2"], "label": [2, 1]}
    assert collection.text_loader("body")(pd.DataFrame({"docno": ["d2"]}))["body"].tolist() == ["dogs bark"]


def test_ids_that_are_numbers_and_documents_alone(tmp_path):
    collection = own([{"docno": 7, "text": "x"}], pd.DataFrame({"qid": [1], "query": ["y"]}),
                     pd.DataFrame({"qid": [1], "docno": [7], "label": [1]}), name_or_path="mine")  # fmt: skip
    assert collection.qrels().values.tolist() == [["1", "7", 1]] and collection.name == "mine"
    assert next(collection.corpus())["docno"] == "7"
    (tmp_path / "mine.csv").write_text(f"id,text\n007,{'x' * 200_000}\n008,\n")  # a whole book
    alone = load_collection(tmp_path / "mine.csv")
    assert alone.splits == () and alone.name == "mine"
    assert [(doc["docno"], doc["text"]) for doc in alone.corpus()] == [("007", "x" * 200_000), ("008", "")]


@pytest.mark.parametrize(
    ("call", "named"),
    [
        (lambda: own([{"text": "x"}]), "row 0: needs a column 'docno' .or doc_id, .*, and has 'text'"),
        (lambda: own([{"docno": "d 1", "text": "x"}]), "row 0: docno"),
        (lambda: own([{"docno": "d1", "text": float("nan")}]), "row 0: text of 'd1' must be a str, got nan: drop"),
        (lambda: own([]), "documents hold no document"),
        (lambda: own(qrels=[]), "qrels hold no judgement"),
        (lambda: own([DOCS[0], DOCS[0]]), "row 1: docno 'd1'"),
        (lambda: own(topics=[{"qid": "q1", "words": "x"}]), "topics, row 0: needs a column 'query'"),
        (lambda: own(topics=[TOPICS[0], {**TOPICS[0], "query": "x"}]), "topics, row 1: query of 'q2'"),
        (lambda: own(topics=[{"qid": "q7", "query": "x"}]), "2 of 2 judged queries are missing"),
        (lambda: own(topics=[{"qid": "q1", "query": float("nan")}]), "topics, row 0: query"),
        (lambda: own(qrels=[{**TEST[0], "label": 0.5}]), "qrels, row 0: label"),
        (lambda: own([{"docno": "x1", "text": "x"}]), "none of the 2 judged documents"),
    ],
)
def test_refused_data(call, named):
    with pytest.raises(ValueError, match=named):
        list(call().corpus())


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ('id,text\na,"x\nb,y\n', "line 3: is no CSV"), ("id,text\na,b,c\n", "line 2: has 3 cells, expected id, text"),
    ],
)
def test_refused_csv(tmp_path, content, named):
    (tmp_path / "a.csv").write_text(content)
    with pytest.raises(ValueError, match=f"a.csv, {named}"):
        list(load_collection(tmp_path / "a.csv").corpus())


def test_train_pairs(tmp_path):
    train = [("q1", "d1", 2), ("q2", "d2", 1), ("q3", "d4", 0), ("q3", "nowhere", 1), ("q9", "d1", 1)]
    collection = own(qrels={"train": pd.DataFrame(train, columns=["qid", "docno", "label"]), "test": TEST})
    assert collection.splits == ("train", "test")
    with pytest.warns(UserWarning, match="left out 2 judgements"):
        assert collection.train_pairs() == [("night noise", "Cats purr at night"), ("barking", "dogs bark")]
    with pytest.warns(UserWarning, match="'own-data' has no train split") as told:
        assert own().train_pairs() == [("Cats", "purr at night"), ("Birds", DOCS[3]["text"])]
    assert told[0].filename == __file__, "the user's line"
    with pytest.raises(ValueError, match="'own-data' has no training pairs"), pytest.warns(UserWarning):
        own(DOCS[:3][1:]).train_pairs()


def test_labels_that_are_not_relevant():
    """As in ANTIQUE, whose labels 1 and 2 mean that a document is not relevant."""
    train = pd.DataFrame([("q1", "d1", 3), ("q2", "d2", 2)], columns=["qid", "docno", "label"])
    collection = own(qrels={"train": train, "test": TEST})
    with pytest.warns(UserWarning, match="train split .* are 2, 3, and never 0"):
        assert len(collection.train_pairs()) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert collection.train_pairs(min_label=3) == [("night noise", "Cats purr at night")]
        assert collection.sample(2).train_pairs(3) == collection.train_pairs(3)


class Numbers(Collection):
    """Documents 0..99; topic i looks for document 10 i, and for 10 i + 1 with label 0."""

    name = "numbers"
    splits = ("train", "test")

    def corpus(self):
        return ({"docno": f"{i}", "text": f"t{i} b{i}", "title": f"t{i}", "body": f"b{i}"} for i in range(100))

    def topics(self, split="test"):
        return pd.DataFrame({"qid": [f"{split}{i}" for i in range(10)], "query": [f"query {i}" for i in range(10)]})

    def qrels(self, split="test"):
        rows = [(f"{split}{i}", str(10 * i + j), 1 - j) for i in range(10) for j in range(2)]
        return pd.DataFrame(rows, columns=["qid", "docno", "label"])


def test_sample_keeps_what_its_topics_look_for():
    sample = Numbers().sample(20, 4, seed=3)
    docs, topics, qrels = [doc["docno"] for doc in sample.corpus()], sample.topics(), sample.qrels()
    assert len(docs) == 20 and len(topics) == 4
    assert docs == sorted(docs, key=int), "the order of the whole collection"
    relevant = qrels[qrels["label"] > 0]
    assert sorted(relevant["qid"]) == sorted(topics["qid"])
    assert set(relevant["docno"]) == {str(10 * int(qid.removeprefix("test"))) for qid in topics["qid"]}
    assert set(qrels["docno"]) <= set(docs)
    assert sample.train_pairs() == Numbers().train_pairs() and len(sample.train_pairs()) == 10
    # pinned: the choice must be the same in another process and on another machine
    assert Numbers().sample(20, 4).topics()["qid"].tolist() == ["test1", "test3", "test4", "test8"]
    small, large = (set(d["docno"] for d in Numbers().sample(n, 4).corpus()) for n in (20, 40))
    assert small < large and small != set(docs)
    assert len(list(Numbers().sample(n_topics=4).corpus())) == 100


class FakeDataset:
    """Answers as PyTerrier's datasets do."""

    def __init__(self, docs, error=None):
        self.docs, self.error = docs, error

    def get_corpus_iter(self, verbose=True):
        if self.error:
            raise self.error
        return iter(self.docs)

    def get_topics(self, variant=None):
        return pd.DataFrame({"qid": [1], "text": [f"topic {variant}"], "query": ["keywords"]})

    def get_qrels(self, variant=None):
        return pd.DataFrame({"qid": [1], "docno": ["d1"], "label": [2], "iteration": ["0"]})


def fake(docs, error=None):
    return NamedCollection("fake", FakeDataset(docs, error), {})


def test_named_collection_has_the_same_interface():
    dataset = FakeDataset([{"docno": "d1", "title": "Cats", "abstract": "purr"}, {"docno": "d2", "text": "dogs"}])
    collection = NamedCollection("fake", dataset, {"test": (dataset, None), "dev": (dataset, "dev-small")})
    assert collection.splits == ("dev", "test")
    assert [doc["text"] for doc in collection.corpus()] == ["Cats purr", "dogs"]
    assert collection.topics("dev").to_dict("list") == {"qid": ["1"], "query": ["topic dev-small"]}
    assert collection.qrels("test").to_dict("list") == {"qid": ["1"], "docno": ["d1"], "label": [2]}


def test_irds_names_know_their_splits_without_a_download():
    scifact = load_collection("irds:beir/scifact")
    assert isinstance(scifact, IrdsCollection) and scifact.splits == ("train", "test")
    assert load_collection("irds:beir/scifact/test").splits == ("test",)
    assert {"dev/small", "trec-dl-2019/judged", "train"} <= set(load_collection("irds:msmarco-passage").splits)


@pytest.mark.parametrize(
    ("call", "error", "named"),
    [
        (lambda: load_collection(7), TypeError, "7"),
        (lambda: load_collection(""), TypeError, "name_or_path"),
        (lambda: load_collection("no/where"), FileNotFoundError, "no/where"),
        (lambda: load_collection(Path(__file__).parent), FileNotFoundError, "corpus.jsonl"),
        (lambda: load_collection("zzzqqq"), ValueError, "'zzzqqq'. Possible"),
        (lambda: load_collection("Vaswani"), ValueError, "'Vaswani'; did you mean 'vaswani'"),
        (lambda: load_collection("SciFact"), ValueError, "did you mean 'irds:beir/scifact'"),
        (lambda: load_collection("irds:beir/scifact").topics("dev"), ValueError, "'dev'; available: 'train', 'test'"),
        (lambda: Numbers().sample(20, 4).topics("train"), ValueError, "'train'; available: 'test'"),
        (lambda: Numbers().sample(0, 4), ValueError, "n_docs"),
        (lambda: Numbers().sample(3, 10), ValueError, "n_docs must be at least 10"),
        (lambda: list(fake([], OSError("name resolution failed")).corpus()), ConnectionError, "corpus of 'fake'"),
        (lambda: list(fake([], NotImplementedError("no docs")).corpus()), ConnectionError, "corpus of 'fake' is not"),
        (lambda: list(fake([{"docno": "d1", "url": "x"}]).corpus()), ValueError, "url"),
    ],
)
def test_refused(call, error, named):
    with pytest.raises(error, match=re.escape(named)):
        call()


def test_names_of_pyterrier_and_a_folder_that_wins_over_them(monkeypatch, tmp_path):
    monkeypatch.setattr("pyterrier_rescale._utils.java.ensure_java", lambda: None)
    monkeypatch.chdir(tmp_path)
    assert load_collection("vaswani").splits == ("test",)
    assert {"train", "dev.small"} <= set(load_collection("msmarco_passage").splits)
    (tmp_path / "vaswani").mkdir()
    (tmp_path / "vaswani" / "corpus.jsonl").write_text(json.dumps(DOCS[0]))
    assert isinstance(load_collection("vaswani"), BeirCollection)
