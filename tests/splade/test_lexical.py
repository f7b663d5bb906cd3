"""LexicalEncoder against IDF and BM25 counted in plain Python, and as a Splade in stages, engines and tables."""

from __future__ import annotations

import math
import pickle
from collections import Counter

import numpy as np
import pandas as pd
import pytest
import tiny

from pyterrier_rescale import LexicalEncoder, Splade, systems

KINDS = ["wordpiece", "bpe", "unigram"]


def pieces(tokenizer, text: str, max_length: int = 64) -> list[int]:
    ids = tokenizer(text, truncation=True, max_length=max_length)["input_ids"]
    return [i for i in ids if i not in tokenizer.all_special_ids] if text.strip() else []


def dense(rows: list[dict[int, float]], size: int) -> np.ndarray:
    out = np.zeros((len(rows), size))
    for number, row in enumerate(rows):
        out[number, list(row)] = list(row.values())
    return out


@pytest.mark.parametrize("kind", KINDS)
def test_idf_and_bm25_as_counted_by_hand(kind):
    tokenizer, corpus = tiny.tokenizer(kind), [*tiny.TEXTS, " ", "the the the index"]
    bags = [Counter(pieces(tokenizer, text)) for text in corpus]
    frequency = Counter(piece for bag in bags for piece in bag)
    idf = {v: math.log(1 + (len(corpus) - n + 0.5) / (n + 0.5)) for v, n in frequency.items()}
    mean = np.mean([sum(bag.values()) for bag in bags if bag])
    size = max(tokenizer.get_vocab().values()) + 1
    tokens = LexicalEncoder(tokenizer, idf_from=iter(corpus), max_length=64)
    expected = dense([{v: idf[v] for v in bag} for bag in bags], size)
    np.testing.assert_allclose(tokens.encode_docs(corpus).toarray(), expected, rtol=1e-6)
    np.testing.assert_allclose(tokens.encode_queries(corpus).toarray(), expected, rtol=1e-6)
    bm25 = LexicalEncoder(tokenizer, idf_from=corpus, weighting="bm25", k1=0.9, b=0.4, max_length=64)

    def impact(bag: Counter, v: int) -> float:
        norm = 0.9 * (0.6 + 0.4 * sum(bag.values()) / mean)
        return idf[v] * bag[v] * 1.9 / (bag[v] + norm)

    got = bm25.encode_docs(corpus)
    np.testing.assert_allclose(got.toarray(), dense([{v: impact(b, v) for v in b} for b in bags], size), rtol=1e-6)
    np.testing.assert_allclose(bm25.encode_queries(corpus).toarray(), dense(bags, size))
    assert got.dtype == np.float32 and got.has_sorted_indices and got[-2].nnz == 0


def test_unknown_pieces_and_what_is_cut_count_for_nothing():
    tokenizer = tiny.tokenizer()
    assert "[UNK]" in tokenizer.tokenize("日本")
    encoder = LexicalEncoder(tokenizer, idf_from=["日本 sparse", "日本 dense"], max_length=6)
    assert encoder.encode_docs(["日本"]).nnz == 0
    long = "sparse " * 50 + "index"
    found = set(encoder.encode_docs([long]).nonzero()[1])
    assert found == set(pieces(tokenizer, long, 6)) == set(pieces(tokenizer, "sparse"))
    # a piece that no text has is the rarest of all
    rare = encoder.encode_docs(["gradients"]).data
    assert rare == pytest.approx(math.log(1 + 2.5 / 0.5)) and (rare > encoder.encode_docs(["sparse"]).data.max()).all()


@pytest.mark.parametrize("weighting", ["tokens", "bm25"])
def test_stages_engines_and_explanations_take_it(weighting, tmp_path):
    encoder = LexicalEncoder(tiny.tokenizer(), idf_from=tiny.TEXTS, weighting=weighting, max_length=64)
    topics = pd.DataFrame({"qid": ["1", "2"], "query": ["the inverted index", "sparse retrieval of documents"]})
    found = systems({"lexical": encoder}, tiny.DOCUMENTS, tmp_path, engine="exact")["lexical"](topics)
    exact = (encoder.encode_queries(topics["query"]) @ encoder.encode_docs(tiny.TEXTS).T).toarray()
    for row in found.itertuples():
        assert row.score == pytest.approx(exact[int(row.qid) - 1, int(row.docno[1:])], abs=0.2), "rounded to 1/100"
    pairs = found.merge(pd.DataFrame(tiny.DOCUMENTS), on="docno")
    scored = encoder.scorer()(pairs[["qid", "query", "docno", "text"]])
    for row in scored.itertuples():
        assert row.score == pytest.approx(exact[int(row.qid) - 1, int(row.docno[1:])], rel=1e-5)
    explanation = encoder.explain("the inverted index", tiny.TEXTS[2])
    assert explanation.score == pytest.approx(exact[0, 2], rel=1e-5)
    assert explanation["in_query"].all() and explanation.loc[explanation["contribution"] > 0, "in_document"].all()
    assert encoder.top_terms("the index")[0][0] == "index" or weighting == "bm25"


def test_folder_identity_and_repr(tmp_path):
    tokenizer = tiny.tokenizer()
    encoder = LexicalEncoder(tokenizer, idf_from=tiny.TEXTS, weighting="bm25", b=0.3, max_length=32)
    encoder.save_pretrained(tmp_path / "lexical")
    again = LexicalEncoder(tmp_path / "lexical")
    assert pickle.loads(pickle.dumps(encoder)) == encoder
    assert again == encoder and hash(again) == hash(encoder) and again.fingerprint == encoder.fingerprint
    assert (again.encode_docs(tiny.TEXTS) != encoder.encode_docs(tiny.TEXTS)).nnz == 0
    same = LexicalEncoder(tokenizer, idf_from=encoder.idf_from, weighting="bm25", b=0.3, max_length=32)
    assert same == encoder
    for other in ({"b": 0.4}, {"k1": 1.0}, {"weighting": "tokens"}, {"max_length": 31}, {"idf_from": tiny.TEXTS[1:]}):
        settings = {"idf_from": tiny.TEXTS, "weighting": "bm25", "b": 0.3, "max_length": 32, **other}
        assert LexicalEncoder(tokenizer, **settings).fingerprint != encoder.fingerprint, other
    assert isinstance(encoder, Splade)
    kind = type(tokenizer).__name__
    assert repr(encoder) == f"LexicalEncoder(<{kind}>, idf_from=<12 texts>, weighting='bm25', b=0.3, max_length=32)"
    lower = LexicalEncoder(tiny.tokenizer("bpe"), idf_from=tiny.TEXTS, lowercase=True)
    assert (lower.encode_docs(["SPARSE"]) != lower.encode_docs(["sparse"])).nnz == 0


def test_what_is_given_wins_over_what_a_folder_was_saved_with(tmp_path):
    encoder = LexicalEncoder(tiny.tokenizer(), idf_from=tiny.TEXTS, weighting="bm25", k1=0.9, b=0.3, max_length=32)
    encoder.save_pretrained(tmp_path)
    saved = {"weighting": "bm25", "k1": 0.9, "b": 0.3, "max_length": 32}
    # the defaults themselves count where they are typed
    for name, value in {"weighting": "tokens", "k1": 1.2, "b": 0.75, "max_length": 256}.items():
        again = LexicalEncoder(tmp_path, **{name: value})
        assert {key: getattr(again, key) for key in saved} == saved | {name: value}
        assert (again.encode_docs(["the the index " * 20]) != encoder.encode_docs(["the the index " * 20])).nnz
    other = LexicalEncoder(tmp_path, idf_from=tiny.TEXTS)
    assert (other.weighting, other.k1, other.b, other.max_length) == ("tokens", 1.2, 0.75, 256)


def test_a_folder_that_is_not_whole_is_refused(bert_folder, tmp_path, monkeypatch):
    encoder = LexicalEncoder(tiny.tokenizer(), idf_from=tiny.TEXTS, max_length=32)
    encoder.save_pretrained(tmp_path / "a")
    before = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    with monkeypatch.context() as patched:
        patched.setattr(np, "save", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
        with pytest.raises(OSError, match="disk full"):
            LexicalEncoder(tiny.tokenizer(), idf_from=tiny.TEXTS[:3]).save_pretrained(tmp_path / "a")
    assert {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()} == before
    Splade(bert_folder).save_pretrained(tmp_path / "model")
    with pytest.raises(FileExistsError, match="holds a model"):
        encoder.save_pretrained(tmp_path / "model")


def test_mistakes_are_named(tmp_path, bert_folder):
    tokenizer = tiny.tokenizer()
    for settings, message in [
        ({"idf_from": None}, "idf_from must be given"),
        ({"idf_from": []}, "at least one text"),
        ({"idf_from": ["a", None]}, "idf_from, text 1 must be a string, got None"),
        ({"weighting": "tfidf"}, "weighting must be 'tokens' or 'bm25', got 'tfidf'"),
        ({"k1": -1}, "k1 must be a finite number >= 0"),
        ({"b": 1.5}, "b must be a share from 0 to 1, got 1.5"),
        ({"k1": float("inf")}, "k1"),
        ({"max_length": 2}, "max_length must be an integer >= 3"),
        ({"batch_size": 0}, "batch_size"),
    ]:
        with pytest.raises(ValueError, match=message):
            LexicalEncoder(tokenizer, **{"idf_from": tiny.TEXTS, **settings})
    frame = pd.DataFrame({"text": ["a"]})
    for texts, what in (("a text", "str"), (frame, "DataFrame"), ({"text": "a"}, "dict")):
        with pytest.raises(TypeError, match=f"idf_from must be a list of strings.* got .*{what}"):
            LexicalEncoder(tokenizer, idf_from=texts)
    other = LexicalEncoder(tiny.tokenizer("unigram"), idf_from=tiny.TEXTS).idf_from
    with pytest.raises(ValueError, match="of a vocabulary of"):
        LexicalEncoder(tokenizer, idf_from=other)
    assert LexicalEncoder(bert_folder, idf_from=tiny.TEXTS).encode_docs(["sparse"]).nnz
