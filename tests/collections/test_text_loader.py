"""A collection's texts in results, by docno."""

from __future__ import annotations

import pickle
from collections import namedtuple
from types import SimpleNamespace

import pandas as pd
import pyterrier as pt
import pytest

from pyterrier_rescale import load_collection
from pyterrier_rescale.collections.named import IrdsCollection

DOCS = [{"docno": f"d{i}", "title": f"title {i}", "text": f"body {i}", "n": i} for i in range(1200)]


def numbers(size=1200, **data):
    return load_collection("numbers", documents=DOCS[:size], **data)


def results(*docnos):
    return pd.DataFrame({"qid": "q", "docno": docnos, "extra": range(len(docnos))}, index=range(5, 5 + len(docnos)))


def test_texts_are_added_and_all_else_stays():
    collection = numbers()
    loader, frame = collection.text_loader(), results("d7", "d1199", "d7")
    assert loader(results()).columns.tolist() == ["qid", "docno", "extra", "text", "title", "body"]
    loaded = loader(frame)
    pd.testing.assert_frame_equal(loaded[["qid", "docno", "extra"]], frame)
    assert loaded["text"].tolist() == ["title 7 body 7", "title 1199 body 1199", "title 7 body 7"]
    assert loaded["body"].tolist() == ["body 7", "body 1199", "body 7"]
    assert loader(results(*(f"d{i}" for i in range(1200))))["title"].tolist() == [f"title {i}" for i in range(1200)]
    assert collection.text_loader(["body", "n"])(frame)["n"].tolist() == [7, 1199, 7]
    assert collection.text_loader("text")(frame.assign(text="old"))["text"].tolist() == loaded["text"].tolist()
    assert pt.text.get_text(collection, "text")(frame)["text"].tolist() == loaded["text"].tolist()


@pytest.mark.parametrize(
    ("fields", "docnos", "error", "named"),
    [
        ("*", ["d1", "x1"], ValueError, "'x1'"), ("*", [None], ValueError, "None"), ("url", ["d1"], KeyError, "url"),
    ],
)  # fmt: skip
def test_refused(fields, docnos, error, named):
    with pytest.raises(error, match=named):
        numbers(3).text_loader(fields)(results(*docnos))


def test_equal_and_pickled():
    collection = numbers(100)
    loader = collection.text_loader("text")
    assert loader == collection.text_loader(["text"]) != collection.text_loader("body")
    assert pickle.loads(pickle.dumps(loader))(results("d3"))["text"].tolist() == ["title 3 body 3"]


def test_ir_datasets_look_up_in_their_own_store():
    Doc = namedtuple("Doc", "doc_id title text")
    store = SimpleNamespace(get_many=lambda docnos: {d: Doc(d, "Cats", "purr") for d in docnos if d == "d1"})
    dataset = SimpleNamespace(irds_ref=lambda: SimpleNamespace(docs_store=lambda: store))
    collection = IrdsCollection("irds:fake", dataset, {})
    assert collection.text_loader()(results("d1", "d1"))["text"].tolist() == ["Cats purr", "Cats purr"]
    with pytest.raises(ValueError, match="'d2'"):
        collection.text_loader()(results("d1", "d2"))
