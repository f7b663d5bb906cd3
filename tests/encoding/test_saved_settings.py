"""Encoders saved by others, in folders and under hub names: computed as SparseEncoder does, or refused by name."""

from __future__ import annotations

import dataclasses
import json
import os
import pickle
import shutil

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from dense import dense_weights
from pyterrier_rescale.encoding.head_options import HeadOptions
from pyterrier_rescale.encoding.model_folder import save_encoder
from pyterrier_rescale.encoding.query_encoder import QuerySide

from pyterrier_rescale import Splade, audit, calibrate, train
from pyterrier_rescale.heads.checkpoint import load_backbone


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """An encoder with summed documents of 20 tokens, and one with queries of their own."""
    root = tmp_path_factory.mktemp("saved")
    model, tok = tiny.build("modernbert")
    save_encoder(root / "plain", model, tok, pooling="sum", max_length=20)
    save_encoder(root / "router", model, tok, pooling="max", max_length=20, queries=QuerySide(pooling="sum"))
    weights = np.linspace(0, 1, len(tok), dtype=np.float32)
    save_encoder(root / "static", model, tok, pooling="max", max_length=20, queries=QuerySide(weights=weights))
    return root


def change(folder, file, **entries):
    path = folder / file
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **entries}))


CHANGES = {
    "activation": (
        "1_SpladePooling/config.json", {"activation_function": "log1p_relu"}, "activation_function='log1p_relu'",
    ),
    "query prompt": ("config_sentence_transformers.json", {"prompts": {"query": "q: ", "document": ""}}, "prompts="),
    "passage prompt": ("config_sentence_transformers.json", {"prompts": {"passage": "p: "}}, "prompts="),
    "default prompt": (
        "config_sentence_transformers.json", {"prompts": {"x": "y: "}, "default_prompt_name": "x"}, "prompts=",
    ),
    "most terms": ("config_sentence_transformers.json", {"max_active_dims": 8}, "max_active_dims=8"),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_settings_that_are_not_followed_are_refused_by_name(name, saved, tmp_path):
    file, entries, message = CHANGES[name]
    folder = shutil.copytree(saved / "plain", tmp_path / "m")
    change(folder, file, **entries)
    with pytest.raises(ValueError, match=f"saved with a setting that Splade does not follow: {message}"):
        Splade(folder)


def test_the_activation_of_queries_and_other_modules(saved, tmp_path):
    folder = shutil.copytree(saved / "router", tmp_path / "m")
    change(folder, "query_1_SpladePooling/config.json", activation_function="log1p_relu")
    with pytest.raises(ValueError, match="activation_function='log1p_relu'"):
        Splade(folder)
    folder = shutil.copytree(saved / "plain", tmp_path / "n")
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 2, "name": "2", "path": "2_Normalize", "type": "sentence_transformers.models.Normalize"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match="documents go through .*Normalize"):
        Splade(folder)
    (folder / "modules.json").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match="modules.json is not JSON"):
        Splade(folder)


def test_lower_case_is_followed(saved, tmp_path):
    from sentence_transformers import SparseEncoder

    folder = shutil.copytree(saved / "plain", tmp_path / "m")
    change(folder, "sentence_bert_config.json", do_lower_case=True)
    texts = [text.upper() for text in tiny.TEXTS]
    stock = SparseEncoder(str(folder), device="cpu").encode_document(texts, convert_to_sparse_tensor=False)
    np.testing.assert_allclose(Splade(folder).encode_docs(texts).toarray(), np.asarray(stock), atol=1e-4)


@pytest.mark.parametrize("static", [True, False])
def test_a_router_as_sentence_transformers_saves_it(static, saved, tmp_path):
    from sentence_transformers import SparseEncoder

    own = SparseEncoder(str(saved / ("static" if static else "router")), device="cpu")
    own.save_pretrained(str(tmp_path / "m"))
    assert not (tmp_path / "m" / "config.json").exists(), "the model lies in a folder of its own"
    again = SparseEncoder(str(tmp_path / "m"), device="cpu")
    splade = Splade(tmp_path / "m")
    for ours, stock in ((splade.encode_docs, again.encode_document), (splade.encode_queries, again.encode_query)):
        expected = np.asarray(stock(tiny.TEXTS, convert_to_sparse_tensor=False))
        np.testing.assert_allclose(ours(tiny.TEXTS).toarray(), expected, atol=1e-4)


WHERE = ["stock module", "custom module", "model", "no modules"]


@pytest.mark.parametrize("where", WHERE)
def test_the_options_of_sparseup(where, tmp_path):
    """As its folders name them, wherever they stand; the same as the plain formula, and as our own save of it."""
    model, tok = tiny.build("modernbert")
    save_encoder(tmp_path / "m", model, tok, pooling="max", max_length=20)
    options = {"logit_shift": 0.1, "position_top_k": 12, "vocab_fold": "case_space"}
    change(tmp_path / "m", "config.json" if where in WHERE[2:] else "1_SpladePooling/config.json", **options)
    if where == "custom module":
        modules = json.loads((tmp_path / "m" / "modules.json").read_text())
        modules[1]["type"] = "sparseup.FoldedSpladePooling"
        (tmp_path / "m" / "modules.json").write_text(json.dumps(modules))
        change(tmp_path / "m", "1_SpladePooling/config.json", embedding_dimension=len(tok), chunk_size=None)
    if where == "no modules":
        (tmp_path / "m" / "modules.json").unlink()
    splade = Splade(tmp_path / "m", max_length=20)
    assert (splade.shift, splade.position_top_k, splade.fold) == (0.1, 12, "case")
    with torch.no_grad():
        expected = dense_weights(model, tok, tiny.TEXTS, shift=0.1, position_top_k=12, fold="case", max_length=20)
    np.testing.assert_allclose(splade.encode_docs(tiny.TEXTS).toarray(), expected.numpy(), atol=1e-4)
    splade.save_pretrained(tmp_path / "ours")
    again = Splade(tmp_path / "ours")
    assert again.shift is None, "our folders hold it in the bias"
    assert again == splade == pickle.loads(pickle.dumps(splade))


def test_options_that_are_off_are_none(saved, tmp_path):
    folder = shutil.copytree(saved / "plain", tmp_path / "m")
    change(folder, "1_SpladePooling/config.json", logit_shift=0, position_top_k=None, vocab_fold="none", other=None)
    assert Splade(folder) == Splade(saved / "plain")


OTHERS = {
    "another setting": ({"pool_prefix": "skip"}, "pool_prefix='skip'"),
    "another folding": ({"vocab_fold": "stem"}, "fold must be 'case' or None, got 'stem'"),
    "another shift": ({"logit_shift": "high"}, "shift must be a finite number"),
    "no number of logits": ({"position_top_k": 2.5}, "position_top_k must be an integer >= 1 or None, got 2.5"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_settings_of_modules_that_are_not_ours_are_refused_by_name(name, saved, tmp_path):
    entries, message = OTHERS[name]
    folder = shutil.copytree(saved / "plain", tmp_path / "m")
    change(folder, "1_SpladePooling/config.json", **entries)
    with pytest.raises(ValueError, match=f"saved with a setting that Splade does not follow: {message}"):
        Splade(folder)


def test_custom_modules_and_queries_with_options_of_their_own(saved, tmp_path):
    folder = shutil.copytree(saved / "plain", tmp_path / "m")
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "someone.SquaredSpladePooling"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match="documents go through .*SquaredSpladePooling"):
        Splade(folder)
    folder = shutil.copytree(saved / "router", tmp_path / "n")
    change(folder, "1_SpladePooling/config.json", position_top_k=12)
    with pytest.raises(ValueError, match=r"queries have no options, documents \{'position_top_k': 12\}"):
        Splade(folder)
    change(folder, "query_1_SpladePooling/config.json", position_top_k=12)
    assert Splade(folder).position_top_k == 12


@pytest.mark.parametrize("kind", ["plain", "router", "static"])
def test_hub_names_are_read_as_folders_are(kind, saved, tmp_path, monkeypatch):
    """A cache as huggingface_hub lays it out, with no network."""
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "models--someone--encoder"
    shutil.copytree(saved / kind, repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for module in (constants, __import__("transformers.utils.hub", fromlist=["hub"])):
        for name in ("HF_HUB_CACHE", "TRANSFORMERS_CACHE"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, str(tmp_path))
    named, folder = Splade("someone/encoder"), Splade(saved / kind)
    assert (named.pooling, named.max_length) == (folder.pooling, 20)
    assert named.fingerprint == folder.fingerprint
    assert abs(named.encode_queries(tiny.TEXTS) - folder.encode_queries(tiny.TEXTS)).max() == 0


def test_half_an_encoder_is_not_taken_for_a_masked_lm(bert_folder, tmp_path, monkeypatch):
    """What is left of a save that was cut off, or while an encoder is trained anew."""
    splade, replace = Splade(bert_folder, pooling="sum"), os.replace

    def cut_off(source, target):
        if str(target).endswith("model.safetensors"):
            raise OSError("disk full")
        replace(source, target)

    splade.save_pretrained(tmp_path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "replace", cut_off)
        with pytest.raises(OSError, match="disk full"):
            Splade(bert_folder, rescale=4.0).save_pretrained(tmp_path)
    uses = Splade, lambda path: audit(path, tiny.TEXTS), lambda path: train(path, [("a", "b")] * 8, tmp_path / "out")
    for use in uses:
        with pytest.raises(ValueError, match="no whole encoder: modules.json, which is written last"):
            use(tmp_path)
    assert not (tmp_path / "out").exists()
    splade.save_pretrained(tmp_path)
    assert Splade(tmp_path) == splade and not (tmp_path / ".unfinished").exists()


def test_measures_follow_what_an_encoder_was_saved_with(bert_folder, tmp_path):
    splade = Splade(bert_folder, pooling="sum", position_top_k=6, fold="case")
    splade.save_pretrained(tmp_path)
    given = {"encoding": {"pooling": "sum", "options": HeadOptions(position_top_k=6, fold="case")}}
    expected = audit(bert_folder, tiny.TEXTS, **given).numbers
    found = audit(tmp_path, tiny.TEXTS).numbers
    assert found["score_mean"] == pytest.approx(expected["score_mean"], rel=1e-5)
    other = audit(tmp_path, tiny.TEXTS, encoding={"pooling": "max"}).numbers
    assert other["score_mean"] < found["score_mean"] / 2
    options = {"offset": False, "k": 4.0}
    expected, found = (calibrate(folder, tiny.TEXTS, **options, **given).table for folder in (bert_folder, tmp_path))
    pd.testing.assert_frame_equal(found, expected)
    pd.testing.assert_frame_equal(calibrate(tmp_path, tiny.TEXTS, **options).table, expected)


def test_the_length_that_is_given_holds_for_static_queries(bert_folder, tmp_path):
    text = " ".join(tiny.TEXTS)
    static = QuerySide(weights=np.ones(Splade(bert_folder).encoder.vocab_size, dtype=np.float32))
    for own in (None, 20):
        model, tokenizer = load_backbone(bert_folder)
        queries = dataclasses.replace(static, max_length=own)
        save_encoder(tmp_path / str(own), model, tokenizer, pooling="max", max_length=32, queries=queries)
    assert Splade(tmp_path / "None").queries_encoder.max_length == 32
    assert Splade(tmp_path / "None", max_length=4).encode_queries([text]).nnz <= 4
    assert Splade(tmp_path / "20", max_length=4).queries_encoder.max_length == 20
