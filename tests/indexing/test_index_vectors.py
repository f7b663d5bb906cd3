"""Vectors into every engine and back out of it; engines converted into one another; re-scoring from an index."""

from __future__ import annotations

import importlib.util
import pickle
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from engine_data import ENGINES, TOLERANCE, frame, make_docs, make_queries, retrieved
from vector_stub import StubEncoder, make_documents

from pyterrier_rescale import encode, open_index
from pyterrier_rescale.indexing.engines import terrier_reading


def built(path, engine, documents, **options):
    return open_index(path, engine, **options).indexer().index(documents)


@pytest.fixture(scope="module")
def vectors(tmp_path_factory):
    return encode(StubEncoder(), make_documents(60), tmp_path_factory.mktemp("v") / "v", shard_size=25, verbose=False)


@pytest.mark.parametrize("engine", ENGINES)
def test_what_an_engine_holds_comes_back(tmp_path, engine):
    docs = make_docs(700, vocabulary=300)
    docs[5]["toks"] = {**docs[5]["toks"], "heavy": 2**20 + 1, "z": 1}  # rare terms, a weight of many bits
    back = built(tmp_path / "i", engine, docs).vectors()
    assert list(back.documents()) == docs and len(back) == 700 and back.quantised == 100
    assert [type(w) for w in next(iter(back.documents()))["toks"].values()][:1] == [int]
    assert back.docnos == [d["docno"] for d in docs]
    number = 341
    assert {t: round(100 * w) for t, w in back.top_terms(docs[number]["docno"], 1000)} == docs[number]["toks"]
    assert back.stats()["postings"] == sum(len(d["toks"]) for d in docs)
    assert repr(back).endswith(".vectors()") and pickle.loads(pickle.dumps(back)) == back


def test_a_terrier_index_is_decoded_in_parts_of_any_size(tmp_path, monkeypatch):
    docs = make_docs(300, vocabulary=200)
    index = built(tmp_path / "i", "terrier", docs)
    for bits in (1, 5_000, 2**25):  # a term at a time, some, all
        monkeypatch.setattr(terrier_reading, "CHUNK_BITS", bits)
        assert list(index.vectors().documents()) == docs


@pytest.mark.parametrize("engine", ENGINES)
def test_an_index_of_vectors_is_that_of_the_encoder(tmp_path, engine, vectors):
    index = built(tmp_path / "i", engine, vectors, scale=40)
    assert list(index.vectors().documents()) == list(vectors.documents(scale=40))
    assert index.fingerprint == "stub-terms" and len(index) == 60
    assert index.made_from["encoder"] == "stub" and index.made_from["corpus"] == vectors.corpus
    with pytest.raises(ValueError, match="another vocabulary"):
        toks = next(iter(vectors.documents()))["toks"]
        query = frame([type(toks)({"t1": 1.0}, vocab="another:1")])
        index.retriever()(query)


@pytest.mark.parametrize("source", ENGINES)
@pytest.mark.parametrize("target", ENGINES)
def test_engines_convert_into_one_another(tmp_path, source, target, vectors):
    first = built(tmp_path / "first", source, vectors)
    second = built(tmp_path / "second", target, first.vectors())
    assert list(second.vectors().documents()) == list(vectors.documents())
    assert second.made_from == first.made_from and second.fingerprint == first.fingerprint
    queries = make_queries(10, vocabulary=50, terms=6)
    queries["query_toks"] = [{f"t{t[1:]}": w for t, w in toks.items()} for toks in queries["query_toks"]]
    found = [built(tmp_path / f"e{i}", "exact", x).retriever(10)(queries) for i, x in enumerate((first.vectors(),))]
    again = second.retriever(10)(queries)
    for qid in queries["qid"]:
        best, other = retrieved(found[0], qid), retrieved(again, qid)
        assert [s for _, s in other] == pytest.approx([s for _, s in best], rel=TOLERANCE[str(target)])

def test_a_circle_through_every_engine_and_back(tmp_path):
    """Each index is made of the vectors that the one before it holds, no model and no text in sight."""
    wanted = {"pisa": ("pyterrier_pisa",), "milvus": ("pymilvus", "milvus_lite"), "seismic": ("seismic",)}
    others = [name for name, modules in wanted.items() if all(map(importlib.util.find_spec, modules))]
    docs, queries = make_docs(300, vocabulary=120), make_queries(12, vocabulary=120)
    vectors = built(tmp_path / "first", "exact", docs).vectors()
    first = open_index(tmp_path / "first").retriever(10)(queries)
    for engine in ["terrier", *others, "exact"]:
        path = tmp_path / (f"{engine}.db" if engine == "milvus" else f"{engine}-again")
        index = built(path, engine, vectors)
        vectors = index.vectors()
        assert list(vectors.documents()) == docs, engine
        again = index.retriever(10)(queries)
        assert again["score"].tolist() == pytest.approx(first["score"].tolist(), rel=1e-3), engine
    assert again.equals(first)
    # In 8 bits: the same but for near ties.
    rounded = open_index(tmp_path / "bits", "terrier").indexer(bits=8).index(vectors).retriever(10)(queries)
    same = [
        len({d for d, _ in retrieved(rounded, q)} & {d for d, _ in retrieved(first, q)}) / 10 for q in queries["qid"]
    ]
    assert sum(same) / len(same) >= 0.98


@pytest.mark.parametrize("engine", ENGINES)
def test_two_steps_score_as_one(tmp_path, engine):
    docs = make_docs(400, vocabulary=120)
    index, queries = built(tmp_path / "i", engine, docs), make_queries(12, vocabulary=120)
    whole = index.retriever(400)(queries).set_index(["qid", "docno"])["score"]
    few = queries.assign(
        query_toks_all=queries["query_toks"],
        query_toks=[dict(sorted(t.items(), key=lambda i: -i[1])[:3]) for t in queries["query_toks"]],
    )
    results = (index.retriever(50) >> index.scorer())(few)
    assert len(results) == 12 * 50 and set(few.columns) <= set(results.columns)
    expected = whole.reindex(pd.MultiIndex.from_frame(results[["qid", "docno"]])).to_numpy()
    np.testing.assert_allclose(results["score"].to_numpy(), expected, rtol=TOLERANCE[engine])
    assert (results.groupby("qid")["score"].rank(ascending=False, method="first") - 1 == results["rank"]).all()


def test_a_scorer_waits_for_its_index(tmp_path):
    index = open_index(tmp_path / "i", "exact")
    scorer = index.scorer()
    results = pd.DataFrame({"qid": ["q"], "query": ["x"], "query_toks": [{"x1": 1.0}], "docno": ["doc0"]})
    with pytest.raises(FileNotFoundError, match="there is no index at"):
        scorer(results)
    index.indexer().index([{"docno": "doc0", "toks": {"x1": 250}}])
    assert scorer(results)["score"].tolist() == [2.5]


def test_converting_needs_no_torch(tmp_path, vectors):
    code = (
        "import sys; from pyterrier_rescale import open_vectors, open_index; a, b, c = sys.argv[1:]\n"
        "index = open_index(b, 'exact').indexer().index(open_vectors(a))\n"
        "open_index(c, 'exact').indexer().index(index.vectors())\n"
        "assert 'torch' not in sys.modules"
    )
    paths = [str(Path(vectors.path)), str(tmp_path / "b"), str(tmp_path / "c")]
    out = subprocess.run([sys.executable, "-c", code, *paths], capture_output=True, text=True, timeout=100)
    assert out.returncode == 0, out.stderr
    assert list(open_index(tmp_path / "c", "exact").vectors().documents()) == list(vectors.documents())


def test_pruned_vectors_are_those_encoded_with_fewer_terms(tmp_path, vectors):
    few = encode(StubEncoder(), make_documents(60), tmp_path / "v", max_terms=3, min_weight=0.4, verbose=False)
    pruned = vectors.pruned(3, 0.4)
    assert list(pruned.documents()) == list(few.documents()) and pruned.docnos == few.docnos and len(pruned) == 60
    assert pruned.top_terms("d41") == few.top_terms("d41") and pruned.stats() == few.stats()
    assert pruned == vectors.pruned(3, 0.4) != vectors.pruned(3)
    assert repr(pruned) == f"{vectors!r}.pruned(max_terms=3, min_weight=0.4)"
    index = built(tmp_path / "i", "exact", pruned)
    assert index.made_from == {**vectors.made_from, "pruned": [3, 0.4]}
    assert index.stats()["postings"] == few.stats()["postings"]
    with pytest.raises(ValueError, match="max_terms"):
        vectors.pruned(0)


@pytest.mark.parametrize("engine", ["exact", "terrier"])
def test_stages_follow_an_index_that_is_replaced(tmp_path, engine):
    """The retriever of the same pipeline does: a scorer of the former documents would score what they are not."""
    docs, queries = make_docs(40, vocabulary=60), make_queries(5, vocabulary=60)
    index = built(tmp_path / "i", engine, docs)
    found, scorer, feedback = index.retriever(10), index.scorer(), index.feedback(3)
    (found >> scorer)(queries), (found >> feedback)(queries)
    changed = [{"docno": f"new-{d['docno']}", "toks": {t: 2 * w for t, w in d["toks"].items()}} for d in docs]
    open_index(tmp_path / "i", engine).indexer(mode="overwrite").index(changed)
    other = built(tmp_path / "other", engine, changed)
    first = found(queries)
    np.testing.assert_allclose(scorer(first)["score"], first["score"], rtol=1e-6)
    pd.testing.assert_frame_equal(feedback(first), other.feedback(3)(first))
    assert len(index.retriever(2**31 - 1)(queries)) == len(index.retriever(40)(queries))
