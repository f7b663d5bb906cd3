from __future__ import annotations

import pickle
from collections import namedtuple
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pyterrier as pt
import pytest
import tiny

from pyterrier_rescale import Splade, open_index
from pyterrier_rescale.collections import write_beir
from pyterrier_rescale.collections.base import Collection, make_document
from pyterrier_rescale.collections.named import IrdsCollection


class Counted(Collection):
    """Documents d0, d1, ...; counts the passes over them."""

    name, splits = "counted", ()

    def __init__(self, size=1200, docs=None):
        self.docs = docs or [{**make_document(f"d{i}", f"title {i}", f"body {i}"), "n": i} for i in range(size)]
        self.passes = 0

    def corpus(self):
        self.passes += 1
        yield from self.docs

    def topics(self, split="test"):
        raise NotImplementedError

    qrels = topics


def results(*docnos):
    return pd.DataFrame({"qid": "q", "docno": docnos, "extra": range(len(docnos))}, index=range(5, 5 + len(docnos)))


def test_texts_are_added_and_all_else_stays():
    collection = Counted()
    loader = collection.text_loader()
    assert loader(results()).columns.tolist() == ["qid", "docno", "extra", "text", "title", "body"]
    assert collection.passes == 0, "an empty frame needs no corpus"
    frame = results("d7", "d1199", "d7")
    loaded = loader(frame)
    pd.testing.assert_frame_equal(loaded[["qid", "docno", "extra"]], frame)
    assert loaded["text"].tolist() == ["title 7 body 7", "title 1199 body 1199", "title 7 body 7"]
    assert loaded["body"].tolist() == ["body 7", "body 1199", "body 7"]
    every = loader(results(*(f"d{i}" for i in range(1200))))
    assert every["title"].tolist() == [f"title {i}" for i in range(1200)]
    assert collection.text_loader("n")(frame)["n"].tolist() == [7, 1199, 7]
    assert list(collection.text_loader(["body", "n"])(frame).columns) == ["qid", "docno", "extra", "body", "n"]
    assert collection.passes == 1, "one pass serves all"
    assert pt.text.get_text(collection, "text")(frame)["text"].tolist() == loaded["text"].tolist()


def test_columns_that_are_there_are_replaced():
    assert Counted(3).text_loader("text")(results("d1").assign(text="old"))["text"].tolist() == ["title 1 body 1"]


@pytest.mark.parametrize(
    ("fields", "docnos", "error", "named"),
    [
        ("*", ["d1", "x1"], ValueError, "'x1'"), ("*", [None], ValueError, "None"), ("url", ["d1"], KeyError, "url"),
    ],
)  # fmt: skip
def test_refused(fields, docnos, error, named):
    with pytest.raises(error, match=named):
        Counted(3).text_loader(fields)(results(*docnos))


def test_equal_pickled_and_shared_between_threads():
    collection = Counted()
    loader = collection.text_loader("text")
    assert loader == collection.text_loader(["text"]) != collection.text_loader("body")
    assert hash(loader) == hash(collection.text_loader("text"))
    assert repr(loader).startswith("Counted('counted').text_loader(") and "body" not in repr(loader)
    loader(results("d0"))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda i: loader(results(f"d{i}"))["text"].iloc[0], range(64)))
    assert found == [f"title {i} body {i}" for i in range(64)]
    again = pickle.loads(pickle.dumps(loader))
    assert again(results("d3"))["text"].tolist() == ["title 3 body 3"]


def test_a_sample_loads_what_it_holds(tmp_path):
    class Judged(Counted):
        splits = ("test",)

        def topics(self, split="test"):
            return pd.DataFrame({"qid": ["q"], "query": ["w"]})

        def qrels(self, split="test"):
            return pd.DataFrame({"qid": ["q"], "docno": ["d5"], "label": [1]})

    sample = Judged().sample(10)
    kept = [doc["docno"] for doc in sample.corpus()]
    assert sample.text_loader()(results(*kept))["text"].str.startswith("title").all()
    with pytest.raises(ValueError, match="1,190 docnos"):
        sample.text_loader()(results(*(f"d{i}" for i in range(1200))))
    written = write_beir(sample, tmp_path / "zoo")
    assert written.text_loader("n")(results("d5"))["n"].tolist() == [5]


def test_ir_datasets_look_up_in_their_own_store():
    Doc = namedtuple("Doc", "doc_id title text")

    class Reference:
        def docs_store(self):
            return self

        def get_many(self, docnos):
            return {docno: Doc(docno, "Cats", "purr") for docno in docnos if docno == "d1"}

    class Dataset:
        def irds_ref(self):
            return Reference()

    collection = IrdsCollection("irds:fake", Dataset())
    assert collection.text_loader()(results("d1", "d1"))["text"].tolist() == ["Cats purr", "Cats purr"]
    with pytest.raises(ValueError, match="'d2'"):
        collection.text_loader()(results("d1", "d2"))


def test_scores_of_a_reranker_are_those_of_the_index(bert_folder, tmp_path):
    splade = Splade(bert_folder, max_length=32)
    collection = Counted(docs=[make_document(f"d{i}", "", text) for i, text in enumerate(tiny.TEXTS)])
    index = (splade.doc_encoder(scale=1000) >> open_index(tmp_path / "i", "exact", scale=1000).indexer()).index(
        collection.corpus()
    )
    first = splade.query_encoder() >> index.retriever(5)
    topics = pd.DataFrame({"qid": ["q1", "q2"], "query": [tiny.TEXTS[0], tiny.TEXTS[5]]})
    found = first(topics)
    rescored = (first >> collection.text_loader() >> splade.scorer())(topics)
    both = found.merge(rescored, on=["qid", "docno"])
    assert len(both) == len(found) == 10
    assert both["score_y"].to_numpy() == pytest.approx(both["score_x"].to_numpy(), rel=1e-2)
