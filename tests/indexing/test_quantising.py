"""Weights in so many bits, and what Terrier is told to expect without them."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
from engine_data import ENGINES, TOLERANCE, exact_ranking, frame, make_docs, make_queries, retrieved

from pyterrier_rescale.encoding.terms import Toks
from pyterrier_rescale.indexing.engines import open_index

DOCS = [{**doc, "toks": {t: w * 37 for t, w in doc["toks"].items()}} for doc in make_docs(60, vocabulary=300)]
LARGEST = max(w for doc in DOCS for w in doc["toks"].values())


def by_hand(bits: int) -> list[dict]:
    units = ((1 << bits) - 1) / LARGEST
    rounded = [{t: int(np.rint(w * units)) for t, w in doc["toks"].items()} for doc in DOCS]
    return [
        {"docno": doc["docno"], "toks": {t: w for t, w in toks.items() if w}}
        for doc, toks in zip(DOCS, rounded, strict=True)
    ]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("engine", ENGINES)
def test_bits_in_every_engine(tmp_path, engine, bits):
    """The largest weight is 2**bits - 1; weights, counts and scores are those worked out by hand."""
    index = open_index(tmp_path / "i", engine, scale=5000).indexer(bits=bits).index(iter(DOCS))
    docs, scale = by_hand(bits), 5000 * ((1 << bits) - 1) / LARGEST
    assert index.scale == pytest.approx(scale, rel=1e-5) and index.stats()["scale"] == index.scale
    held = {d["docno"]: dict(d["toks"]) for d in index.vectors().documents(scale=index.scale)}
    assert held == {d["docno"]: d["toks"] for d in docs}
    weights = [w for toks in held.values() for w in toks.values()]
    assert max(weights) == (1 << bits) - 1 and min(weights) >= 1
    assert (index.stats()["postings"], index.stats()["weight_sum"]) == (len(weights), sum(weights))
    queries = make_queries(3, vocabulary=300)
    results = index.retriever(10)(queries)
    for qid, toks in zip(queries["qid"], queries["query_toks"], strict=True):
        expected = exact_ranking(docs, toks, 10, scale=scale)
        assert [s for _, s in retrieved(results, qid)] == pytest.approx(
            [s for _, s in expected], rel=TOLERANCE[engine] + 2e-5
        )
    assert open_index(tmp_path / "i") == index and repr(open_index(tmp_path / "i")) == repr(index)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["i"] and not list(index.path.glob("quantising*"))


def test_bits_take_weights_at_the_scale_they_tell(tmp_path):
    docs = [{"docno": f"d{i}", "toks": Toks({"a": 10_000 * (i + 1), "b": 1}, vocab="f:10000")} for i in range(3)]
    index = open_index(tmp_path / "i", "exact").indexer(bits=8).index(docs)
    assert index.scale == 85 and index.fingerprint == "f"
    assert retrieved(index.retriever()(frame([{"a": 2.0}])), "q0") == [("d2", 6.0), ("d1", 4.0), ("d0", 2.0)]
    assert index.stats()["postings"] == 3  # b rounds to nothing
    again = index.indexer(mode="overwrite", bits=8).index(docs)
    assert again.scale == 85
    copy = open_index(tmp_path / "j", "exact").indexer(bits=8).index(index.vectors())
    assert copy.scale == 85 and copy.stats()["weight_sum"] == index.stats()["weight_sum"] == 85 + 170 + 255
    with pytest.raises(ValueError, match="encoded at scale 100.*at scale 10000|encoded at scale 100,"):
        open_index(tmp_path / "k", "exact").indexer(bits=8).index(
            [*docs, {"docno": "e", "toks": Toks({"a": 1}, vocab="f:100")}]
        )
    assert not (tmp_path / "k").exists()


def test_bits_that_make_no_sense(tmp_path):
    index = open_index(tmp_path / "i", "exact")
    for bits in (1, 17, 0, 8.5, "8", True):
        with pytest.raises(ValueError, match="bits must be"):
            index.indexer(bits=bits)
    with pytest.raises(ValueError, match="bits must be None with mode='append'"):
        index.indexer(mode="append", bits=8)
    empty = index.indexer(bits=8).index([{"docno": "a", "toks": {}}])
    assert (empty.scale, len(empty)) == (100, 1)
    assert repr(index.indexer(bits=8)).endswith(".indexer(bits=8)") and index.indexer(bits=8) != index.indexer()


@pytest.mark.parametrize("times", [1, 100])
def test_terrier_tells_what_a_large_scale_costs(tmp_path, times):
    """The estimate, of either size, is within a fifth of what the files take."""
    docs = [{**doc, "toks": {t: w * times for t, w in doc["toks"].items()}} for doc in make_docs(1000)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        large = open_index(tmp_path / "large").indexer().index(docs)
    told = [str(w.message) for w in caught if "inverted file will take" in str(w.message)]
    assert len(told) == (times == 100)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        small = open_index(tmp_path / "small").indexer(bits=8).index(docs)
    if told:
        sizes = [(index.path / "data.inverted.bf").stat().st_size / 1e6 for index in (large, small)]
        estimates = [float(number) for number in re.findall(r"([\d.]+) MB", told[0])]
        assert estimates == pytest.approx(sizes, rel=0.2)
        assert "indexer(bits=8)" in told[0] and f"scale of about {100 * 255 / 29900:.3g}" in told[0]
