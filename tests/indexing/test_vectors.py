"""Document vectors in Parquet shards: what is written, what is read, what is refused; no model but in two tests."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyterrier as pt
import pytest
from lz4.frame import LZ4FrameFile
from vector_stub import StubEncoder, StubTerms, contents, make_documents

from pyterrier_rescale import LexicalEncoder, Splade, Vectors, encode, open_vectors
from pyterrier_rescale.encoding.pruning import prune
from pyterrier_rescale.indexing.build import corpus_fingerprint

STUB = Path(__file__).with_name("vector_stub.py")


def run(path, documents=None, splade=None, **options):
    documents = make_documents(60) if documents is None else documents
    return encode(splade or StubEncoder(), documents, path, **{"shard_size": 16, "verbose": False, **options})


def test_documents_in_are_rows_out_in_order(tmp_path):
    documents = make_documents(60)
    vectors = run(tmp_path / "v", iter(documents))
    assert sorted(contents(tmp_path / "v")) == [
        "manifest.json", "pt_meta.json", *(f"shard-{i:05d}.parquet" for i in range(4)),
    ]  # fmt: skip
    assert len(vectors) == 60 and vectors.docnos == [d["docno"] for d in documents]
    expected = StubEncoder().encode_docs([d["text"] for d in documents])
    assert (vectors.to_csr() != expected).nnz == 0 and vectors.to_csr().dtype == np.float32
    assert (vectors.vector("d37") != expected[37]).nnz == 0
    best = np.argsort(-expected[37].toarray()[0], kind="stable")[:3]
    assert vectors.top_terms("d37", 3) == [(f"T{i}", float(expected[37, i])) for i in best]
    with pytest.raises(KeyError, match="d99"):
        vectors.top_terms("d99")


def test_parquet_readers_find_three_plain_columns(tmp_path):
    run(tmp_path / "v")
    frame = pd.read_parquet(tmp_path / "v" / "shard-00001.parquet")
    assert list(frame.columns) == ["docno", "terms", "weights"] and len(frame) == 16
    expected = StubEncoder().encode_docs([make_documents(60)[20]["text"]])
    assert frame["docno"][4] == "d20"
    assert frame["terms"][4].tolist() == sorted(expected.indices.tolist()) and frame["terms"][4].dtype == np.int32
    assert frame["weights"][4].tolist() == expected.data.tolist() and frame["weights"][4].dtype == np.float32
    manifest = json.loads((tmp_path / "v" / "manifest.json").read_text())
    assert [shard["rows"] for shard in manifest["shards"]] == [16, 16, 16, 12] and manifest["documents"] == 60
    assert manifest["corpus"] == corpus_fingerprint(make_documents(60), ("docno", "text"))
    assert manifest["encoder"] == "stub" and manifest["vocabulary"]["terms"] == StubTerms.terms.tolist()


@pytest.mark.parametrize("shard_size", [1, 59, 60, 61, 2048, 5000])
def test_any_shard_size_gives_the_same_rows(tmp_path, shard_size, monkeypatch):
    monkeypatch.setattr("pyterrier_rescale.indexing.vectors.intake.WINDOW", 20)  # smaller than a shard, and a divisor
    vectors = run(tmp_path / "v", shard_size=shard_size)
    assert len(vectors.manifest["shards"]) == -(-60 // shard_size)
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
    assert vectors.encoder == splade.fingerprint
    # Encoded again, from the folder saved anew and read one at a time: the same bytes.
    splade.save_pretrained(tmp_path / "saved")
    encode(Splade(tmp_path / "saved"), iter(documents), tmp_path / "w", shard_size=5, verbose=False)
    assert contents(tmp_path / "v") == contents(tmp_path / "w")


def test_an_encoder_without_a_model_serves_too(tmp_path, bert_folder, texts):
    lexical = LexicalEncoder(bert_folder, idf_from=texts)
    documents = [{"docno": f"d{i}", "text": text} for i, text in enumerate(texts)]
    vectors = encode(lexical, documents, tmp_path / "v", verbose=False)
    assert (vectors.to_csr() != lexical.encode_docs(texts)).nnz == 0


def test_a_finished_folder_is_opened_without_encoding(tmp_path):
    run(tmp_path / "v")
    before, splade = contents(tmp_path / "v"), StubEncoder()
    assert len(run(tmp_path / "v", splade=splade)) == 60
    assert splade.calls == 0 and contents(tmp_path / "v") == before


@pytest.mark.parametrize("harm", ["missing", "short", "flipped", "empty"])
def test_a_harmed_shard_is_noticed_and_made_again(tmp_path, harm):
    run(tmp_path / "v")
    before = contents(tmp_path / "v")
    file = tmp_path / "v" / "shard-00002.parquet"
    data = bytearray(file.read_bytes())
    if harm == "missing":
        file.unlink()
    else:
        data[len(data) // 4] ^= 1
        file.write_bytes({"short": data[:-9], "flipped": data, "empty": b""}[harm])
    with pytest.raises(ValueError, match="shard-00002.parquet"):
        open_vectors(tmp_path / "v").to_csr()
    splade = StubEncoder()
    run(tmp_path / "v", splade=splade)
    assert splade.calls == 1 and contents(tmp_path / "v") == before


def test_a_failing_stream_leaves_whole_shards_only_and_is_gone_on_with(tmp_path):
    run(tmp_path / "whole")

    def broken():
        yield from make_documents(60)[:40]
        raise OSError("the disk went away")

    with pytest.raises(OSError, match="went away"):
        run(tmp_path / "v", broken())
    assert sorted(contents(tmp_path / "v")) == ["shard-00000.parquet", "shard-00001.parquet"]
    with pytest.raises(FileNotFoundError, match=r"not finished \(2 shards"):
        open_vectors(tmp_path / "v")
    splade = StubEncoder()
    run(tmp_path / "v", splade=splade)
    assert splade.calls == 2 and contents(tmp_path / "v") == contents(tmp_path / "whole")


def test_processes_share_one_folder(tmp_path):
    run(tmp_path / "whole")
    first = run(tmp_path / "v", shard="0/2")
    assert not first.complete and sorted(contents(tmp_path / "v")) == ["shard-00000.parquet", "shard-00002.parquet"]
    with pytest.raises(FileNotFoundError, match="not finished"):
        len(first)
    assert run(tmp_path / "v", shard=(1, 2)).complete and first.complete and len(first) == 60
    assert contents(tmp_path / "v") == contents(tmp_path / "whole")
    run(tmp_path / "v", shard="1/3")  # all is there
    assert contents(tmp_path / "v") == contents(tmp_path / "whole")


def test_two_processes_do_not_write_one_shard(tmp_path):
    def other():
        documents = make_documents(60)
        yield from documents[:40]
        with pytest.raises(RuntimeError, match=r"another process is writing .*shard-00001.*shard=\(0, 2\)"):
            run(tmp_path / "v", shard_size=30)
        yield from documents[40:]

    pytest.importorskip("fcntl")
    # Windows of a few documents: the shard is being written when its later documents are asked for.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pyterrier_rescale.indexing.vectors.intake.WINDOW", 4)
        run(tmp_path / "v", other(), shard_size=30)


@pytest.mark.parametrize(
    ("documents", "options", "splade", "what"),
    [
        (make_documents(61)[1:], {}, None, "shard-00000.parquet was made from other documents"),
        (make_documents(59), {}, None, "shard-00003.parquet was made from other documents"),
        (make_documents(48), {}, None, "shard-00003.parquet is of a corpus with more documents"),
        (make_documents(61), {}, None, "shard-00003.parquet was made from other documents"),
        ([*make_documents(60)[:20], {"docno": "d20", "text": "x"}, *make_documents(60)[21:]], {}, None, "shard-00001"),
        (None, {"shard_size": 17}, None, "shard_size 16, and not 17"),
        (None, {"max_terms": 3}, None, "max_terms None, and not 3"),
        (None, {"min_weight": 0.5}, None, "min_weight 0.0, and not 0.5"),
        (None, {}, StubEncoder("another"), "encoder 'stub', and not 'another'"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_other_vectors_are_never_mixed_in(tmp_path, documents, options, splade, what, finished):
    run(tmp_path / "v")
    if not finished:
        (tmp_path / "v" / "manifest.json").unlink()
        what = "other vectors" if options else what
    before = contents(tmp_path / "v")
    with pytest.raises(ValueError, match=what):
        run(tmp_path / "v", documents, splade, **options)
    assert contents(tmp_path / "v") == before
    run(tmp_path / "v", documents, splade, resume=False, **options)
    run(tmp_path / "w", documents, splade, **options)
    assert contents(tmp_path / "v") == contents(tmp_path / "w")


def test_an_opened_folder_that_is_replaced_is_not_mixed(tmp_path):
    old = run(tmp_path / "v")
    assert old.docnos and old.top_terms("d3")
    new = run(tmp_path / "v", make_documents(60)[::-1], resume=False)
    for read in (lambda: list(old.documents()), lambda: old.top_terms("d3")):
        with pytest.raises(ValueError, match="shard-0000[03].parquet is another one.*open them again"):
            read()
    assert new.docnos == [d["docno"] for d in make_documents(60)[::-1]]


@pytest.mark.parametrize(
    ("documents", "error", "what"),
    [
        ([], ValueError, "at least one document"),
        ("text", TypeError, "iterable of dicts"),
        (["text"], TypeError, "document 0 must be a dict"),
        ([{"text": "x"}], KeyError, "document 0 has no 'docno'"),
        ([{"docno": "a"}], KeyError, "'a' has no 'text'"),
        ([{"docno": 1, "text": "x"}], TypeError, "docno of document 0 must be a str"),
        ([{"docno": "", "text": "x"}], ValueError, "docno of document 0"),
        ([{"docno": "a\nb", "text": "x"}], ValueError, "docno of document 0"),
        ([{"docno": "\ud800", "text": "x"}], ValueError, "docno of document 0"),
        ([{"docno": "a", "text": "x"}, {"docno": "b", "text": None}], ValueError, "'b': 'text' must be a string"),
        ([{"docno": "a", "text": float("nan")}], ValueError, "'a': 'text' must be a string"),
        ([{"docno": "a", "text": "\ud800"}], ValueError, "'text' of document 'a'"),
        ([{"docno": "a", "text": "x"}] * 2, ValueError, "docno 'a' occurs twice"),
        ([*make_documents(50), {"docno": "d3", "text": ""}], ValueError, "docno 'd3' occurs twice"),
    ],
)
def test_documents_that_cannot_be_encoded(tmp_path, documents, error, what):
    with pytest.raises(error, match=what):
        run(tmp_path / "v", documents)
    assert "manifest.json" not in contents(tmp_path / "v")
    assert not [name for name in contents(tmp_path / "v") if "partial" in name]


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"shard_size": 0}, "shard_size must be an integer >= 1"),
        ({"workers": True}, "workers must be an integer >= 1"),
        ({"shard": "2/2"}, "shard must be"),
        ({"shard": "x"}, "shard must be"),
        ({"shard": (0, 2), "resume": False}, "leave shard out"),
        ({"max_terms": 0}, "max_terms must be an integer >= 1 or None"),
        ({"min_weight": -1}, "min_weight must be a finite number >= 0"),
        ({"ray": True, "devices": ["cpu"]}, "leave out \\['cpu'\\]"),
    ],
)
def test_settings_are_checked(tmp_path, options, what):
    with pytest.raises(ValueError, match=what):
        run(tmp_path / "v", **options)
    assert not (tmp_path / "v").exists()


def test_other_folders_are_left_alone(tmp_path):
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "thesis.tex").write_text("all of it")
    for resume in (True, False):
        with pytest.raises(FileExistsError, match="thesis.tex"):
            run(tmp_path / "v", resume=resume)
    assert contents(tmp_path / "v") == {"thesis.tex": b"all of it"}
    with pytest.raises(FileExistsError, match="not a folder"):
        run(tmp_path / "v" / "thesis.tex")
    with pytest.raises(FileNotFoundError, match="no vectors at"):
        open_vectors(tmp_path / "nothing")


def test_frames_and_collections_are_documents(tmp_path):
    class Collection:
        def corpus(self):
            return iter(make_documents(60))

    run(tmp_path / "v")
    run(tmp_path / "frame", pd.DataFrame(make_documents(60)))
    run(tmp_path / "collection", Collection())
    assert contents(tmp_path / "v") == contents(tmp_path / "frame") == contents(tmp_path / "collection")


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
        "dropped": np.mean(np.rint(100 * weights) < 1), "clipped_8bit": np.mean(np.rint(100 * weights) > 255),
    })  # fmt: skip


def test_prune_keeps_the_heaviest(tmp_path):
    rng = np.random.default_rng(0)
    dense = np.round(rng.random((40, 30)) * (rng.random((40, 30)) < 0.5), 1).astype(np.float32)
    from scipy.sparse import csr_matrix

    for max_terms, least in [(None, 0.0), (3, 0.0), (None, 0.4), (5, 0.4), (1, 0.95), (100, 0.0)]:
        expected = np.zeros_like(dense)
        for row, values in enumerate(dense):
            order = sorted(np.flatnonzero(values), key=lambda i: (-values[i], i))  # noqa: B023
            kept = [i for i in order if values[i] >= np.float32(least)][:max_terms]
            expected[row, kept] = values[kept]
        assert (prune(csr_matrix(dense), max_terms, least).toarray() == expected).all(), (max_terms, least)
    vectors = run(tmp_path / "v", max_terms=2, min_weight=0.5)
    full = StubEncoder().encode_docs([d["text"] for d in make_documents(60)])
    assert (vectors.to_csr() != prune(full, 2, 0.5)).nnz == 0 and vectors.stats()["active_max"] == 2


def test_scorer_needs_neither_model_nor_text(tmp_path):
    vectors = run(tmp_path / "v")
    dense = vectors.to_csr().toarray()
    toks = {"t3": 0.5, "t7": 2.0, "unknown": 9.0}
    results = pd.DataFrame(
        [("q1", "a b", toks, "d40"), ("q1", "a b", toks, "d5"), ("q2", "c", {"t7": 1.0}, "d40"), ("q2", "c", {}, "d0")],
        columns=["qid", "query", "query_toks", "docno"],
    )
    scored = vectors.scorer()(results)
    expected = [0.5 * dense[40, 3] + 2 * dense[40, 7], 0.5 * dense[5, 3] + 2 * dense[5, 7], dense[40, 7], 0]
    found = scored.set_index(["qid", "docno"])["score"]
    assert found[[("q1", "d40"), ("q1", "d5"), ("q2", "d40"), ("q2", "d0")]].tolist() == pytest.approx(expected)
    assert scored.groupby("qid")["rank"].apply(sorted).tolist() == [[0, 1], [0, 1]]
    full = results.assign(query_toks_all=[{"t1": 1.0}] * 4)
    assert vectors.scorer()(full).set_index(["qid", "docno"])["score"]["q1", "d5"] == pytest.approx(dense[5, 1])
    with pytest.raises(KeyError, match="'d99' is not among the 60 vectors"):
        vectors.scorer()(results.assign(docno="d99"))
    again = pickle.loads(pickle.dumps(vectors.scorer()))
    assert again == vectors.scorer() and again(results).equals(scored)
    assert pt.inspect.transformer_outputs(vectors.scorer(), list(results.columns)) == [
        "qid", "query", "query_toks", "docno", "score", "rank",
    ]  # fmt: skip


def test_vectors_are_an_artifact(tmp_path):
    import configparser

    vectors = run(tmp_path / "v")
    config = configparser.ConfigParser()
    config.read(Path(__file__).parents[2] / "setup.cfg")
    target = "sparse_vectors.rescale_vectors = pyterrier_rescale.indexing.vectors.folder:Vectors"
    assert target in config["options.entry_points"]["pyterrier.artifact"]
    meta = json.loads((tmp_path / "v" / "pt_meta.json").read_text())
    assert f"{meta['type']}.{meta['format']}" == target.split(" ")[0]
    package = vectors.build_package(str(tmp_path / "package.tar.lz4"), verbose=False)
    with LZ4FrameFile(package) as unpacked, tarfile.open(fileobj=unpacked) as tar:
        tar.extractall(tmp_path / "copy", filter="data")
    assert Vectors(tmp_path / "copy").docnos == vectors.docnos
    again = pickle.loads(pickle.dumps(vectors))
    assert again == vectors and again.docnos == vectors.docnos and repr(again) == f"open_vectors({str(vectors.path)!r})"


def test_reading_needs_no_torch(tmp_path):
    run(tmp_path / "v")
    code = (
        "import sys; from pyterrier_rescale import open_vectors; v = open_vectors(sys.argv[1]); "
        "print(len(list(v.documents())), v.stats()['documents']); assert 'torch' not in sys.modules"
    )
    out = subprocess.run([sys.executable, "-c", code, str(tmp_path / "v")], capture_output=True, text=True, timeout=100)
    assert out.stdout.split() == ["60", "60"], out.stderr


def test_files_of_others_are_told_by_what_is_in_them(tmp_path):
    """Not by their names: an index has a pt_meta.json, too, a web page a manifest.json, others shards of their own."""
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "their.parquet")
    their = (tmp_path / "their.parquet").read_bytes()
    for number, files in enumerate((
        {"pt_meta.json": b'{"type": "sparse_index", "format": "rescale_exact"}', "docnos.txt": b"d1"},
        {"manifest.json": b'{"name": "a web page"}'}, {"manifest.json": b"[]"}, {"pt_meta.json": b"not JSON"},
        {"shard-00000.parquet": their}, {"shard-000000.tar": b"x"}, {"manifest.json.bak": b"x"},
    )):  # fmt: skip
        folder = tmp_path / str(number)
        folder.mkdir()
        for name, content in files.items():
            (folder / name).write_bytes(content)
        for resume in (True, False):
            with pytest.raises(FileExistsError, match="holds no vectors"):
                run(folder, resume=resume)
        assert contents(folder) == files
    run(tmp_path / "v")
    beside = {"shard-000000.tar": b"x", "manifest.json.bak": b"x", "README": b"x", ".mine.json-backup": b"x"}
    for name, content in beside.items():
        (tmp_path / "v" / name).write_bytes(content)
    (tmp_path / "v" / "shard-00001.parquet").write_bytes(b"damaged")
    (tmp_path / "v" / "manifest.json").write_text("{cut off")
    (tmp_path / "v" / ".shard-00002.parquet.partial").write_bytes(b"killed")
    run(tmp_path / "v", resume=False)
    found = contents(tmp_path / "v")
    assert {name: found[name] for name in beside} == beside and ".shard-00002.parquet.partial" not in found
    assert len(open_vectors(tmp_path / "v")) == 60
    (tmp_path / "v" / "shard-00009.parquet").write_bytes(their)  # which a larger corpus would be written over
    for resume in (True, False):
        with pytest.raises(FileExistsError, match="shard-00009.parquet"):
            run(tmp_path / "v", make_documents(200), resume=resume)
    assert contents(tmp_path / "v") == found | {"shard-00009.parquet": their}


def test_a_home_folder_in_the_path(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert len(run("~/v")) == 60 and (tmp_path / "v" / "manifest.json").exists() and not (tmp_path / "~").exists()


def test_one_device_as_a_string(tmp_path):
    with pytest.raises(TypeError, match="must be a list of torch devices, such as \\['cpu'\\]"):
        run(tmp_path / "v", devices="cpu")
