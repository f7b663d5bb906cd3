"""Document vectors in Parquet shards: what is written, what is read, what is refused; no model but in two tests."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from scipy.sparse import csr_matrix
from vector_stub import StubEncoder, StubTerms, make_documents, shards

from pyterrier_rescale import Splade, encode, open_index, open_vectors
from pyterrier_rescale.encoding.pruning import prune
from pyterrier_rescale.indexing.build import corpus_fingerprint


def run(path, documents=None, splade=None, **options):
    documents = make_documents(60) if documents is None else documents
    return encode(splade or StubEncoder(), documents, path, **{"shard_size": 16, "verbose": False, **options})


def test_documents_in_are_rows_out_in_order(tmp_path):
    vectors = run(tmp_path / "v", iter(documents := make_documents(60)))
    assert [file.name for file in sorted(vectors.shards_path.iterdir())] == [f"shard-{i:05d}.parquet" for i in range(4)]
    assert len(vectors) == 60 and vectors.docnos == [d["docno"] for d in documents]
    expected = StubEncoder().encode_docs([d["text"] for d in documents])
    assert (vectors.to_csr() != expected).nnz == 0 and vectors.to_csr().dtype == np.float32
    assert (vectors.vector("d37") != expected[37]).nnz == 0
    best = np.argsort(-expected[37].toarray()[0], kind="stable")[:3]
    assert vectors.top_terms("d37", 3) == [(f"T{i}", float(expected[37, i])) for i in best]
    with pytest.raises(KeyError, match="d99"):
        vectors.top_terms("d99")


def test_vectors_of_another_encoder_are_not_appended(tmp_path):
    index, other = open_index(tmp_path / "i", "exact").indexer().index(run(tmp_path / "v")), StubEncoder()
    other.fingerprint = "trained on"
    with pytest.raises(ValueError, match="v2' and the index are of different encoders"):
        index.indexer(mode="append").index(run(tmp_path / "v2", make_documents(70)[60:], other))
    index.indexer(mode="append").index(run(tmp_path / "v3", make_documents(70)[60:]))
    assert len(index) == 70 and index.made_from == {"encoder": "stub"}


def test_parquet_readers_find_three_plain_columns(tmp_path):
    vectors = run(tmp_path / "v")
    whole = pd.read_parquet(vectors.shards_path)
    assert whole["docno"].tolist() == vectors.docnos
    frame = pd.read_parquet(vectors.shards_path / "shard-00001.parquet")
    assert list(frame.columns) == ["docno", "terms", "weights"] and len(frame) == 16
    expected = StubEncoder().encode_docs([make_documents(60)[20]["text"]])
    assert frame["docno"][4] == "d20"
    assert frame["terms"][4].tolist() == sorted(expected.indices.tolist()) and frame["terms"][4].dtype == np.int32
    assert frame["weights"][4].tolist() == expected.data.tolist() and frame["weights"][4].dtype == np.float32
    made_from = vectors.made_from
    assert made_from["corpus"] == corpus_fingerprint(make_documents(60), ("docno", "text"))
    assert made_from["encoder"] == "stub" and vectors.terms.tolist() == StubTerms().terms.tolist()


@pytest.mark.parametrize("shard_size", [1, 59, 60, 61, 2048, 5000])
def test_any_shard_size_gives_the_same_rows(tmp_path, shard_size, monkeypatch):
    monkeypatch.setattr("pyterrier_rescale.indexing.encode.GROUP", 20)  # smaller than a shard, and a divisor
    vectors = run(tmp_path / "v", shard_size=shard_size)
    assert len(list(vectors.shards_path.iterdir())) == -(-60 // shard_size)
    expected = StubEncoder().encode_docs([d["text"] for d in make_documents(60)])
    assert (vectors.to_csr() != expected).nnz == 0
    assert [len(docnos) for docnos, _ in vectors.blocks()] == [
        min(20, min(end + shard_size, 60) - begin)
        for end in range(0, 60, shard_size) for begin in range(end, min(end + shard_size, 60), 20)
    ]  # fmt: skip


def test_documents_are_what_the_encoder_stage_gives_to_an_index(tmp_path, bert_folder, texts):
    splade = Splade(bert_folder)
    documents = [{"docno": f"d{i}", "text": text} for i, text in enumerate([*texts, ""])]
    vectors = encode(splade, documents, tmp_path / "v", shard_size=5, verbose=False)
    for scale in (100, 7.5):
        staged = splade.doc_encoder(scale=scale)(pd.DataFrame(documents))
        given = list(vectors.documents(scale=scale))
        assert given == staged[["docno", "toks"]].to_dict("records")
        assert [d["toks"].vocab for d in given] == [toks.vocab for toks in staged["toks"]]
    found, alone = vectors.top_terms("d3"), splade.top_terms(texts[3])
    assert [term for term, _ in found] == [term for term, _ in alone]
    # encoded alone a text's sums are in another order than among others
    assert [weight for _, weight in found] == pytest.approx([weight for _, weight in alone], rel=1e-6)
    assert vectors.made_from["encoder"] == splade.fingerprint
    # Encoded again, from the folder saved anew and read one at a time: the same bytes.
    splade.save_pretrained(tmp_path / "saved")
    encode(Splade(tmp_path / "saved"), iter(documents), tmp_path / "w", shard_size=5, verbose=False)
    assert shards(tmp_path / "v") == shards(tmp_path / "w")


def test_the_same_call_again_encodes_nothing(tmp_path):
    run(tmp_path / "v")
    before, splade = shards(tmp_path / "v"), StubEncoder()
    assert len(run(tmp_path / "v", splade=splade)) == 60
    assert splade.calls == 0 and shards(tmp_path / "v") == before
    with pytest.raises(FileExistsError, match="already"):
        run(tmp_path / "v", resume=False)


@pytest.mark.parametrize("harm", ["missing", "short", "flipped"])
def test_a_harmed_shard_is_noticed_and_made_again(tmp_path, harm):
    vectors = run(tmp_path / "v")
    before = shards(tmp_path / "v")
    data = bytearray((file := vectors.shards_path / "shard-00002.parquet").read_bytes())
    data[len(data) // 4] ^= 1
    file.write_bytes({"short": data[:-9], "flipped": data, "missing": b""}[harm])
    if harm == "missing":
        file.unlink()
    with pytest.raises(ValueError, match="shard-00002.parquet"):
        open_vectors(tmp_path / "v").to_csr()
    run(tmp_path / "v", overwrite=harm == "flipped")  # whose size is right, and which is seen when it is read
    assert sorted(shards(tmp_path / "v").values()) == sorted(before.values())


def test_a_failing_stream_leaves_whole_shards_only_and_is_gone_on_with(tmp_path):
    run(tmp_path / "whole")

    def broken():
        yield from make_documents(60)[:40]
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        run(tmp_path / "v", broken())
    assert len(shards(tmp_path / "v")) == 2
    with pytest.raises(FileNotFoundError, match=r"not finished \(2 shards"):
        open_vectors(tmp_path / "v")
    for mode in ("create", "append"):
        with pytest.raises(FileExistsError, match="encode"):
            open_index(tmp_path / "v", "exact").indexer(mode=mode).index([{"docno": "d", "toks": {"a": 1}}])
    splade = StubEncoder()
    run(tmp_path / "v", splade=splade)
    assert splade.calls == 2 and shards(tmp_path / "v") == shards(tmp_path / "whole")


def test_an_interrupted_overwriting_is_gone_on_with(tmp_path):
    run(tmp_path / "v", splade=StubEncoder("former"))
    with pytest.raises(ValueError, match="'d40': 'text' must be a string"):
        run(tmp_path / "v", [*make_documents(60)[:40], {"docno": "d40", "text": None}], overwrite=True)
    assert open_vectors(tmp_path / "v").made_from["encoder"] == "former"
    splade = StubEncoder()
    run(tmp_path / "v", splade=splade)
    assert splade.calls == 2 and open_vectors(tmp_path / "v").made_from["encoder"] == "stub"


def test_processes_share_one_folder(tmp_path):
    run(tmp_path / "whole")
    first = run(tmp_path / "v", shard="0/2")
    assert not first.complete and len(shards(tmp_path / "v")) == 2
    with pytest.raises(FileNotFoundError, match="not finished"):
        first.stats()
    assert run(tmp_path / "v", shard=(1, 2)).complete and first.complete and len(first) == 60
    assert shards(tmp_path / "v") == shards(tmp_path / "whole")
    run(tmp_path / "v", shard="1/3")  # all is there
    assert shards(tmp_path / "v") == shards(tmp_path / "whole")


@pytest.mark.parametrize(
    ("documents", "options", "splade", "what"),
    [
        (make_documents(61)[1:], {}, None, "documents.*shard-00000"),
        (make_documents(59), {}, None, "documents.*shard-00003"),
        (make_documents(48), {}, None, "more documents"),
        ([*make_documents(60)[:20], {"docno": "d20", "text": "x"}, *make_documents(60)[21:]], {}, None, "shard-00001"),
        (None, {"shard_size": 17}, None, "shard_size was 16, now 17"),
        (None, {"max_terms": 3}, None, "max_terms was None, now 3"),
        (None, {"min_weight": 0.5}, None, "min_weight was 0.0, now 0.5"),
        (None, {}, StubEncoder("another"), "encoder was 'stub', now 'another'"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_other_vectors_are_never_mixed_in(tmp_path, documents, options, splade, what, finished):
    run(tmp_path / "v", shard=None if finished else "0/1")
    if not finished:
        file = tmp_path / "v" / "pt_meta.json"
        manifest = json.loads(file.read_text())
        ours = manifest["pyterrier_rescale"]
        current = ours["current"]
        ours["others"], ours["current"] = {current["generation"]: current["made_from"]}, None
        file.write_text(json.dumps(manifest))
    before = shards(tmp_path / "v")
    with pytest.raises(ValueError, match=what):
        run(tmp_path / "v", documents, splade, **options)
    assert shards(tmp_path / "v") == before
    run(tmp_path / "v", documents, splade, overwrite=True, **options)
    run(tmp_path / "w", documents, splade, **options)
    assert sorted(shards(tmp_path / "v").values()) == sorted(shards(tmp_path / "w").values())


def test_finished_vectors_take_no_more_documents(tmp_path):
    """48 documents end where a shard ends: of 60 the first three shards are the same."""
    run(tmp_path / "v", make_documents(48))
    before = shards(tmp_path / "v")
    with pytest.raises(ValueError, match="other documents: those of shard-00003"):
        run(tmp_path / "v", make_documents(60))
    assert shards(tmp_path / "v") == before and len(run(tmp_path / "v", make_documents(48))) == 48


def test_an_opened_folder_that_is_replaced_is_not_mixed(tmp_path):
    old = run(tmp_path / "v")
    assert old.docnos and old.top_terms("d3")
    blocks = old.blocks()
    next(blocks)
    run(tmp_path / "v", make_documents(50)[::-1], overwrite=True)
    with pytest.raises(FileNotFoundError):
        list(blocks)
    assert old.docnos == [d["docno"] for d in make_documents(50)[::-1]] and old.to_csr().shape[0] == 50


@pytest.mark.parametrize(
    ("documents", "error", "what"),
    [
        ([], ValueError, "at least one document"),
        ("text", TypeError, "iterable of dicts"),
        (["text"], TypeError, "document 0 must be a dict"),
        ([{"docno": "a"}], KeyError, "'a' has no 'text'"),
        ([{"docno": "", "text": "x"}], ValueError, "docno of document 0"),
        ([{"docno": "a", "text": "x"}, {"docno": "b", "text": None}], ValueError, "'b': 'text' must be a string"),
        ([{"docno": "a", "text": "\ud800"}], ValueError, "'a': 'text'"),
        ([*make_documents(50), {"docno": "d3", "text": ""}], ValueError, "docno 'd3' occurs twice"),
    ],
)
def test_documents_that_cannot_be_encoded(tmp_path, documents, error, what):
    with pytest.raises(error, match=what):
        run(tmp_path / "v", documents)
    assert (tmp_path / "v").exists() == bool(shards(tmp_path / "v")), "the mended call needs no other path"


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"shard_size": 0}, "shard_size"), ({"workers": True}, "workers"), ({"shard": "2/2"}, "shard"),
        ({"shard": "x"}, "shard"), ({"shard": (0, 2), "overwrite": True}, "shard"), ({"max_terms": 0}, "max_terms"),
        ({"min_weight": -1}, "min_weight"), ({"devices": "cpu"}, "devices"),
        ({"ray": True, "devices": ["cpu"]}, "devices"),
    ],
)  # fmt: skip
def test_settings_are_checked(tmp_path, options, what):
    with pytest.raises(ValueError, match=what):
        run(tmp_path / "v", **options)
    assert not (tmp_path / "v").exists()


def test_stats_by_hand(tmp_path):
    documents = make_documents(60)
    dense = StubEncoder().encode_docs([d["text"] for d in documents]).toarray()
    stats = run(tmp_path / "v", documents).stats(top=3)
    active = (dense > 0).sum(axis=1)
    weights = dense[dense > 0].astype(np.float64)
    order = np.argsort(-(dense > 0).sum(axis=0), kind="stable")[:3]
    assert stats.pop("frequent_terms") == {f"T{i}": int((dense[:, i] > 0).sum()) for i in order}
    assert stats == pytest.approx({
        "documents": 60, "postings": int(active.sum()), "terms": int((dense > 0).any(axis=0).sum()),
        "empty": int((active == 0).sum()), "active_mean": active.mean(),
        "active_p99": float(np.percentile(active, 99, method="inverted_cdf")), "active_max": int(active.max()),
        "weight_mean": weights.mean(), "weight_max": weights.max(), "scale": 100.0,
        "weight_sum": int(np.rint(100 * weights).sum()),
        "dropped": np.mean(np.rint(100 * weights) < 1), "clipped_8bit": np.mean(np.rint(100 * weights) > 255),
        "clipped_opensearch": np.mean(weights > 3), "refused_pgvector": 0.0,
    })  # fmt: skip


def test_prune_keeps_the_heaviest(tmp_path):
    rng = np.random.default_rng(0)
    dense = np.round(rng.random((40, 30)) * (rng.random((40, 30)) < 0.5), 1).astype(np.float32)
    for max_terms, least in [(None, 0.0), (3, 0.0), (None, 0.4), (5, 0.4), (1, 0.95), (100, 0.0)]:
        expected = np.zeros_like(dense)
        for row, values in enumerate(dense):
            order = sorted(np.flatnonzero(values), key=lambda i: (-values[i], i))  # noqa: B023
            kept = [i for i in order if values[i] >= np.float32(least)][:max_terms]
            expected[row, kept] = values[kept]
        assert (prune(csr_matrix(dense), max_terms, least).toarray() == expected).all(), (max_terms, least)
    vectors = run(tmp_path / "v", max_terms=2, min_weight=0.5)
    full = StubEncoder().encode_docs([d["text"] for d in make_documents(60)]).astype(float)
    assert (vectors.to_csr() != prune(full, 2, 0.5)).nnz == 0 and vectors.stats()["active_max"] == 2
    twice = run(tmp_path / "w").pruned(2).pruned(5, min_weight=0.5)
    assert (twice.to_csr() != prune(full, 2, 0.5)).nnz == 0
    index = open_index(tmp_path / "i", "exact", scale=3).indexer().index(open_vectors(tmp_path / "w"))
    np.testing.assert_array_equal(index.to_csr().toarray(), (np.rint(full.toarray() * 3.0) / 3).astype("f4"))
    assert (index.rows(index.docnos) != index.to_csr()).nnz == 0
