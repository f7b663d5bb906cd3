"""Interrupted and concurrent indexing, random documents in and out, and retrieval inside larger pipelines."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import time

import engine_data
import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from engine_data import ENGINES, exact_ranking, frame, make_docs, make_queries, retrieved
from ir_measures import R, nDCG

from pyterrier_rescale import open_index

BUILD = """if True:
    import sys, time
    from pyterrier_rescale import open_index
    path, engine, count, pause_at, mode = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]
    def docs():
        for i in range(count):
            if i == pause_at:
                print("paused", flush=True)
                time.sleep(60)
            yield {"docno": f"d{i}", "toks": {f"x{(i * 7 + j) % 997}": 1 + (i + j) % 200 for j in range(20)}}
    print("start", flush=True)
    open_index(path, engine).indexer(mode=mode).index(docs())
    print("done", flush=True)
"""


def build_process(path, engine, count, pause_at=-1, mode="create"):
    command = [sys.executable, "-c", BUILD, str(path), engine, str(count), str(pause_at), mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def wait_for(process, word):
    for line in process.stdout:
        if line.strip() == word:
            return
    raise AssertionError(f"the process ended without saying {word!r}")


def toks(i):
    return {f"x{(i * 7 + j) % 997}": 1 + (i + j) % 200 for j in range(20)}


def check_whole(index, count):
    docs = [{"docno": f"d{i}", "toks": toks(i)} for i in range(count)]
    assert len(index) == count
    found = retrieved(index.retriever(10)(frame([{"x5": 1.0, "x500": 2.0}])), "q0")
    expected = exact_ranking(docs, {"x5": 1.0, "x500": 2.0}, 10)
    np.testing.assert_allclose([s for _, s in found], [s for _, s in expected], rtol=0.02)


def check_unfinished_then_rerun(path, engine, count):
    index = open_index(path, engine)
    assert not index.built and len(index) == 0
    with pytest.raises(FileNotFoundError, match=f"the index at {path} was not finished"):
        index.retriever()(frame([{"x5": 1.0}]))
    index.indexer().index({"docno": f"d{i}", "toks": toks(i)} for i in range(count))
    check_whole(index, count)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("engine", ["exact", "terrier"])
def test_killed_in_the_stream(tmp_path, engine):
    process = build_process(tmp_path / "i", engine, 3000, pause_at=2000)
    wait_for(process, "paused")
    with pytest.raises(RuntimeError, match="another process is building"):
        open_index(tmp_path / "i", engine).indexer().index([{"docno": "a", "toks": {"a": 1}}])
    process.kill()
    process.wait()
    check_unfinished_then_rerun(tmp_path / "i", engine, 3000)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_killed_at_random_moments(tmp_path, engine):
    """20 kills per engine, half of them over an index: what opens is whole (old or new) or says that it is not."""
    rng = random.Random(7)
    started = time.monotonic()
    process = build_process(tmp_path / "timing", engine, 3000)
    wait_for(process, "start")
    begun = time.monotonic() - started
    wait_for(process, "done")
    process.wait()
    span = time.monotonic() - started - begun
    outcomes = []
    for number in range(20):
        path = tmp_path / f"i{number}"
        over = number % 2
        if over:
            open_index(path, engine).indexer().index({"docno": f"d{i}", "toks": toks(i)} for i in range(100))
        process = build_process(path, engine, 3000, mode="overwrite")
        wait_for(process, "start")
        time.sleep(rng.random() * span * 1.1)
        process.send_signal(signal.SIGKILL)
        process.wait()
        index = open_index(path, engine)
        outcomes.append(len(index))
        if index.built:
            assert len(index) == 3000 or (over and len(index) == 100)
            check_whole(index, len(index))
        else:
            with pytest.raises(FileNotFoundError, match="was not finished|there is no index at"):
                index.retriever()(frame([{"x5": 1.0}]))
        index.indexer(mode="overwrite").index({"docno": f"d{i}", "toks": toks(i)} for i in range(3000))
        check_whole(index, 3000)
    assert len(set(outcomes)) > 1, outcomes


def random_documents(n, seed, alphabet):
    rng = random.Random(seed)
    words = list({"".join(rng.choices(alphabet, k=rng.randint(1, 9))) for _ in range(max(n // 10, 500))})
    return [
        {
            "docno": f"{rng.getrandbits(40):x}-{i}",
            "toks": {w: int(rng.paretovariate(0.6)) % 100_000 + 1 for w in rng.sample(words, rng.randint(0, 20))},
        }
        for i in range(n)
    ]


SAFE = "abcdefghijklmnopqrstuvwxyz0123456789"
ODD = SAFE + "ABC\u0120\u010a\u00e9\u4e2d\u0416#[]{}'\"\\/^~:;.,*?! \t\n\u2581\ufffd\ue000\uff21"


def stored_postings(index, documents):
    """All postings of an index, asked for term by term."""
    terms = sorted({t for d in documents for t in d["toks"]})
    results = index.retriever(len(documents))(frame([{t: 1.0} for t in terms]))
    qids = {f"q{i}": t for i, t in enumerate(terms)}
    return {
        (docno, qids[qid], round(score))
        for qid, docno, score in zip(results["qid"], results["docno"], results["score"], strict=True)
    }


def fuzz(tmp_path, engine, n, seed):
    documents = random_documents(n, seed, SAFE if engine == "pisa" else ODD)
    index = open_index(tmp_path / "i", engine, scale=1).indexer().index(iter(documents))
    assert len(index) == n
    expected = {(d["docno"], t, w) for d in documents for t, w in d["toks"].items()}
    assert stored_postings(index, documents) == expected


@pytest.mark.parametrize("engine", ENGINES)
def test_random_documents_come_out_again(tmp_path, engine):
    fuzz(tmp_path, engine, 2000, seed=11)


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_100000_random_documents_come_out_again(tmp_path, engine):
    fuzz(tmp_path, engine, 100_000, seed=12)


# Composition


@pytest.fixture(scope="module")
def collection():
    docs = make_docs(300, vocabulary=300, terms=20)
    texts = {d["docno"]: " ".join(t for t, w in d["toks"].items() for _ in range(1 + w // 100)) for d in docs}
    queries = make_queries(8, vocabulary=300, terms=4)
    queries["query"] = queries["query_toks"].map(" ".join)
    qrels = pd.DataFrame(
        [
            {"qid": qid, "docno": docno, "label": 1}
            for qid, query in zip(queries["qid"], queries["query_toks"], strict=True)
            for docno, _ in exact_ranking(docs, query, 5)
        ]
    )
    return docs, texts, queries, qrels


@pytest.fixture(scope="module")
def encoder(collection):
    weights = dict(zip(collection[2]["query"], collection[2]["query_toks"], strict=True))
    return pt.apply.query_toks(lambda row: weights[row["query"]])


@pytest.mark.parametrize("engine", ENGINES)
def test_experiments_cutoffs_and_fusion(tmp_path, collection, encoder, engine):
    docs, texts, queries, qrels = collection
    index = open_index(tmp_path / "i", engine).indexer().index(docs)
    topics = queries[["qid", "query"]]
    splade = encoder >> index.retriever()
    pd.testing.assert_frame_equal((splade % 10)(topics), (encoder >> index.retriever(10))(topics))
    from pyterrier_rescale._utils.java import start_java

    start_java()
    pt.terrier.IterDictIndexer(str(tmp_path / "bm25")).index({"docno": d, "text": t} for d, t in texts.items())
    bm25 = pt.terrier.TerrierIndex(tmp_path / "bm25").bm25()
    fused = (0.5 * splade + bm25)(topics)
    a = splade(topics).set_index(["qid", "docno"])["score"]
    b = bm25(topics).set_index(["qid", "docno"])["score"]
    expected = (0.5 * a).add(b, fill_value=0)
    np.testing.assert_allclose(fused.set_index(["qid", "docno"])["score"].sort_index(), expected.sort_index())
    get_text = pt.apply.text(lambda row: texts[row["docno"]])
    rerank = splade % 5 >> get_text >> pt.apply.doc_score(lambda row: -len(row["text"]))
    assert len(rerank(topics)) == 5 * len(topics)
    systems = {"bm25": bm25, "splade": splade, "cut": splade % 3, "fused": splade + bm25, "again": rerank}
    for plan in ("none", "tree"):
        table = pt.Experiment(systems, topics, qrels, [nDCG @ 5, R @ 5], baseline="bm25", plan=plan)
        table = table.set_index("name")
        assert table.loc["splade", "nDCG@5"] == pytest.approx(1, abs=0.02)
        assert table.loc["cut", "R@5"] == pytest.approx(0.6, abs=0.02)


def test_caching(tmp_path, collection, encoder):
    caching = pytest.importorskip("pyterrier_caching")
    docs, _, queries, _ = collection
    index = open_index(tmp_path / "i", "exact").indexer().index(docs)
    topics = queries[["qid", "query"]]
    with caching.RetrieverCache(tmp_path / "cache", encoder >> index.retriever(10)) as cached:
        first, second = cached(topics), cached(topics)
    expected = (encoder >> index.retriever(10))(topics)
    for found in (first, second):
        assert found[["qid", "docno", "rank"]].values.tolist() == expected[["qid", "docno", "rank"]].values.tolist()
        np.testing.assert_allclose(found["score"], expected["score"])
    with caching.IndexerCache(tmp_path / "docs") as cache:
        cache.index(docs)
    again = open_index(tmp_path / "j", "exact").indexer().index(iter(caching.IndexerCache(tmp_path / "docs")))
    assert again.stats()["weight_sum"] == index.stats()["weight_sum"]


def test_schematic_is_drawn_offline(tmp_path):
    index = open_index(tmp_path / "i", "exact")
    assert "exact retriever" in pt.schematic.draw(index.retriever())
    assert "exact indexer" in pt.schematic.draw(index.indexer())


def test_all_engines_agree(tmp_path):
    docs, queries = make_docs(400), make_queries(10)
    tops = {}
    for engine in ("exact", "terrier", "pisa") if engine_data.HAS_PISA else ("exact", "terrier"):
        index = open_index(tmp_path / engine, engine).indexer().index(docs)
        results = index.retriever(10)(queries)
        tops[engine] = {(q, d) for q, d in zip(results["qid"], results["docno"], strict=True)}
    assert tops["terrier"] == tops["exact"]
    if "pisa" in tops:
        assert len(tops["pisa"] & tops["exact"]) >= 0.98 * len(tops["exact"])


@pytest.mark.parametrize("family", ["bert", "modernbert"])
def test_with_the_encoders(family, request, texts, tmp_path):
    """From text to scores: they are the dot products of the vectors, the documents' rounded; `.scorer()` agrees."""
    from pyterrier_rescale import Splade

    splade = Splade(request.getfixturevalue(f"{family}_folder"))
    other = Splade(request.getfixturevalue(f"{'modernbert' if family == 'bert' else 'bert'}_folder"))
    docs = [{"docno": f"d{i}", "text": text} for i, text in enumerate(texts)]
    topics = pd.DataFrame({"qid": ["1", "2"], "query": [texts[0].split(".")[0], texts[5]]})
    vectors, queries = splade.encode_docs(texts).astype(float), splade.encode_queries(topics["query"]).astype(float)
    vectors.data = np.rint(vectors.data * 10_000) / 10_000
    truth = (queries @ vectors.T).toarray()
    for engine in ("exact", "terrier"):
        index = open_index(tmp_path / engine, engine, scale=10_000)
        (splade.doc_encoder(scale=10_000) >> index.indexer()).index(docs)
        assert index.fingerprint == splade.term_map().fingerprint
        results = (splade.query_encoder() >> index.retriever())(topics)
        for row in results.itertuples():
            assert row.score == pytest.approx(truth[int(row.qid) - 1, int(row.docno[1:])], rel=1e-6)
        assert len(results) == (truth > 0).sum()
        text = pt.apply.text(lambda row: texts[int(row["docno"][1:])])
        again = (splade.query_encoder() >> index.retriever() >> text >> splade.scorer())(topics)
        np.testing.assert_allclose(again["score"], results["score"], rtol=1e-2)
        with pytest.raises(ValueError, match="another vocabulary"):
            (other.query_encoder() >> index.retriever())(topics)
        with pytest.raises(ValueError, match="takes unscaled weights"):
            (splade.query_encoder(scale=100) >> index.retriever())(topics)
    with pytest.raises(ValueError, match="encoded at scale 100, the index is at scale 10"):
        (splade.doc_encoder() >> open_index(tmp_path / "other", "exact", scale=10).indexer()).index(docs)
