"""An index is reused only if it is what it is said to be: identity lies inside it and is written last."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from engine_data import ENGINES

from pyterrier_rescale import Splade, encode, open_index, systems
from pyterrier_rescale.indexing import store
from pyterrier_rescale.indexing.build import build_index, corpus_fingerprint
from pyterrier_rescale.splade.stages import SpladeDocEncoder

DOCS = [{"docno": f"d{i}", "text": text, "body": text[::-1]} for i, text in enumerate(tiny.TEXTS)]
TOPICS = pd.DataFrame({"qid": ["1", "2"], "query": [tiny.TEXTS[0], tiny.TEXTS[7]]})


@pytest.fixture(scope="module")
def raw(bert_folder):
    return Splade(bert_folder, max_length=32)


@pytest.fixture(scope="module")
def rescaled(bert_folder):
    return Splade(bert_folder, max_length=32, rescale=4)


def run(splade, path, docs=DOCS, engine="exact", **options):
    return systems({"one": splade}, docs, path, engine=engine, **options)["one"](TOPICS)


def check(results, splade, docs=DOCS):
    """The scores are the dot products of this encoder's vectors of these documents."""
    vectors = splade.encode_docs([d[splade.text_field] for d in docs])
    vectors.data = np.rint(vectors.data * 100) / 100
    truth = (splade.encode_queries(TOPICS["query"]) @ vectors.T).toarray()
    truth = pd.DataFrame(truth, columns=[d["docno"] for d in docs])
    assert len(results) == (truth > 0).sum().sum()
    for row in results.itertuples():
        assert row.score == pytest.approx(truth[row.docno][int(row.qid) - 1], rel=0.02)


def reuses(monkeypatch) -> None:
    """Encoding documents fails from here on."""
    monkeypatch.setattr(SpladeDocEncoder, "transform_iter", None)


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError])
@pytest.mark.parametrize("engine", ENGINES)
def test_an_interrupted_rebuild_leaves_the_former_index(raw, rescaled, tmp_path, monkeypatch, engine, error):
    check(run(raw, tmp_path, engine=engine), raw)
    assert [p.name for p in tmp_path.iterdir()] == ["one"]

    def interrupted(*_):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(store, "commit", interrupted)
        with pytest.raises(error):
            run(rescaled, tmp_path, engine=engine, overwrite=True)
    with monkeypatch.context() as patch:
        reuses(patch)
        check(run(raw, tmp_path, engine=engine), raw)  # the former index is still the former encoder's
    with pytest.raises(ValueError, match="encoder was"):
        run(rescaled, tmp_path, engine=engine)
    check(run(rescaled, tmp_path, engine=engine, overwrite=True), rescaled)
    reuses(monkeypatch)
    check(run(rescaled, tmp_path, engine=engine), rescaled)
    assert [p.name for p in tmp_path.iterdir()] == ["one"]


def test_only_the_field_that_is_read_counts(bert_folder, tmp_path, monkeypatch):
    splade = Splade(bert_folder, max_length=32, text_field="body")
    check(run(splade, tmp_path), splade)
    others = [{**d, "body": d["text"]} for d in DOCS]
    with pytest.raises(ValueError, match="corpus was"):
        run(splade, tmp_path, others)
    check(run(splade, tmp_path, others, overwrite=True), splade, others)
    reuses(monkeypatch)
    run(splade, tmp_path, [{**d, "text": "another", "title": 7} for d in others])


def test_what_is_another_encoder(bert_folder, raw, tmp_path, monkeypatch):
    """One number of one parameter, of a word that stands in no text, say; a setting; not the size of a batch."""
    run(raw, tmp_path)
    first = open_index(tmp_path / "one", "exact").made_from
    with monkeypatch.context() as patch:
        reuses(patch)
        run(Splade(bert_folder, max_length=32, batch_size=1), tmp_path)
    changed = Splade(bert_folder, max_length=32)
    with torch.no_grad():
        changed.encoder.model.get_input_embeddings().weight[-1, -1] += 1
    others = [Splade(bert_folder, max_length=16), Splade(bert_folder, max_length=32, pooling="sum")]
    for other in (changed, *others):
        with pytest.raises(ValueError, match="encoder was"):
            run(other, tmp_path)
        check(run(other, tmp_path, overwrite=True), other)
        now = open_index(tmp_path / "one", "exact").made_from
        assert now["encoder"] != first["encoder"] and now["corpus"] == first["corpus"]
        run(raw, tmp_path, overwrite=True)


def test_another_engine_or_scale_is_refused_or_takes_the_place(raw, tmp_path):
    check(run(raw, tmp_path), raw)
    path = tmp_path / "one"
    for options, what in (({"engine": "exact", "scale": 10}, "scale was 100.0, now 10"), ({}, "engine was 'exact'")):
        with pytest.raises(ValueError, match=what):
            build_index(raw, lambda: DOCS, path, **options)
    assert build_index(raw, lambda: DOCS, path, engine="exact", scale=10, overwrite=True).scale == 10
    check(run(raw, tmp_path, engine="terrier", overwrite=True), raw)


def test_an_index_of_vectors_is_reused_if_they_hold_all_terms(raw, rescaled, tmp_path, monkeypatch):
    """By the same encoder, of the same documents; not one that was cut on the way."""
    vectors = encode(raw, DOCS, tmp_path / "vectors", verbose=False)
    few = encode(raw, DOCS, tmp_path / "few", max_terms=5, verbose=False)
    same = open_index(tmp_path / "same", "terrier").indexer().index(vectors)
    for name, source in (("a", vectors), ("b", same), ("c", vectors.pruned()), ("d", few), ("e", vectors.pruned(5))):
        open_index(tmp_path / name / "one", "exact").indexer().index(source)
    reuses(monkeypatch)
    for name in "abc":
        check(run(raw, tmp_path / name), raw)
    for name, splade, docs, message in (
        ("d", raw, DOCS, "max_terms was 5, now None"),
        ("e", raw, DOCS, r"pruned was \[5, 0.0\], now None"),
        ("a", rescaled, DOCS, "encoder was '[0-9a-f]{16}', now"),
        ("b", raw, DOCS[1:], "corpus was"),
    ):
        with pytest.raises(ValueError, match=message):
            run(splade, tmp_path / name, docs)


def test_a_damaged_index_is_built_anew(raw, tmp_path):
    run(raw, tmp_path)
    (open_index(tmp_path / "one").engine_path / "weights.npy").unlink()
    check(run(raw, tmp_path), raw)


def test_an_index_that_does_not_say_what_it_was_made_from_stays(raw, tmp_path):
    open_index(tmp_path / "one", "exact").indexer().index([{"docno": "mine", "toks": {"a": 1}}])
    with pytest.raises(ValueError, match="encoder was None"):
        run(raw, tmp_path)
    assert len(open_index(tmp_path / "one", "exact")) == 1


def test_corpus_fingerprint():
    a, b = {"docno": "1", "text": "ab", "title": "t"}, {"docno": "2", "text": ""}
    known = corpus_fingerprint([a, b])
    assert known.startswith("2:") and len(known) == 18
    assert known == corpus_fingerprint(lambda: iter([a, b])) == corpus_fingerprint(iter([b | {}, a][::-1]))
    assert known == corpus_fingerprint(pd.DataFrame([a, b])[["docno", "text"]])
    assert known == corpus_fingerprint([{**a, "title": "other"}, b])
    others = [
        [b, a], [a], [a, b, b], [a, {"docno": "2"}], [a, {"docno": "2", "text": None}], [{**a, "text": "ab\ud800"}, b],
        [{**a, "docno": "1a", "text": "b"}, b], [{**a, "text": "ab\n[2]"}, b], [{**a, "text": "Ab"}, b],
    ]  # fmt: skip
    seen = {corpus_fingerprint(docs) for docs in others} | {known, corpus_fingerprint([a, b], ("docno", "title"))}
    assert len(seen) == len(others) + 2
    topics = [{"qid": "1", "query": "ab"}]
    assert corpus_fingerprint(topics, ("qid", "query")) != corpus_fingerprint(topics, ("qid",))
    with pytest.raises(ValueError, match="corpus must hold at least one document"):
        corpus_fingerprint([])


def test_a_query_that_is_a_document_does_not_find_itself(raw, tmp_path):
    """Where its id and its text are the document's; equal ids alone mean nothing."""
    topics = pd.DataFrame({"qid": ["d3", "d5", "9"], "query": [tiny.TEXTS[3], "other words", tiny.TEXTS[0]]})
    with pytest.warns(UserWarning, match="queries that are documents themselves"):
        found = systems({"one": raw}, DOCS, tmp_path, engine="exact", num_results=11)["one"](topics)
    whole = systems({"one": raw}, DOCS, tmp_path, engine="exact", num_results=11, own_documents=True)["one"](topics)
    own, everything = (part[part["qid"] == "d3"]["docno"].tolist() for part in (found, whole))
    assert "d3" in everything and "d3" not in own and set(everything) - {"d3"} <= set(own)
    for qid in ("d5", "9"):
        assert found[found["qid"] == qid]["docno"].tolist() == whole[whole["qid"] == qid]["docno"].tolist()
