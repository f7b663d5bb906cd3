"""Saved encoders: readable by others, whole or not marked as such, and no older weights beside the new ones."""

from __future__ import annotations

import os
import stat

import numpy as np
import pytest
import tiny
from pyterrier_rescale.encoding.model_folder import save_encoder
from pyterrier_rescale.encoding.query_encoder import QuerySide
from transformers import AutoModelForMaskedLM

from pyterrier_rescale import Splade
from pyterrier_rescale._utils import filling
from pyterrier_rescale.cli import main


@pytest.fixture(params=[0o022, 0o077])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def check_modes(folder, umask):
    found = {path: stat.S_IMODE(path.stat().st_mode) for path in folder.rglob("*")}
    assert len(found) >= 4
    for path, mode in found.items():
        assert mode == (0o777 if path.is_dir() else 0o666) & ~umask, path


def test_saved_files_have_the_umasks_mode(umask, tmp_path):
    model, tokenizer = tiny.build("bert")
    static = QuerySide(weights=np.ones(len(tokenizer), dtype=np.float32))
    for _ in "12":  # the second into what is there
        save_encoder(tmp_path, model, tokenizer, pooling="max", max_length=32, queries=static)
        check_modes(tmp_path, umask)


def test_users_own_files_keep_their_modes(bert_folder, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "notes.txt").chmod(0o600)
    tmp_path.chmod(0o750)
    Splade(bert_folder, max_length=32).save_pretrained(tmp_path)
    assert stat.S_IMODE((tmp_path / "notes.txt").stat().st_mode) == 0o600
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o750


def test_rescaled_at_the_command_line_and_backbones_in_the_cache(umask, bert_folder, tmp_path):
    from pyterrier_rescale.backbones import small_backbone

    with pytest.raises(SystemExit) as stop:
        main(["rescale", bert_folder, str(tmp_path / "out")])
    assert not stop.value.code
    check_modes(tmp_path / "out", umask)
    sizes = {"steps": 1, "layers": 1, "hidden": 64, "vocab_size": 300, "batch_size": 2, "max_length": 16}
    folder = small_backbone("bert", tiny.TEXTS, tmp_path / "cache", **sizes)
    check_modes(folder, umask)


def test_a_save_that_fails_leaves_what_was_there(bert_folder, tmp_path, monkeypatch):
    splade = Splade(bert_folder, max_length=32)
    splade.save_pretrained(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    monkeypatch.setattr(filling, "settle", lambda folder: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        Splade(bert_folder, max_length=16).save_pretrained(tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before
    assert not list(tmp_path.glob(".saving-*"))


def test_a_save_that_is_cut_off_while_it_moves_files_is_not_marked_whole(bert_folder, tmp_path, monkeypatch):
    splade = Splade(bert_folder, max_length=32)
    splade.save_pretrained(tmp_path)
    replace = os.replace

    def cut_off(source, target):
        if str(target).endswith("model.safetensors"):
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(os, "replace", cut_off)
    with pytest.raises(KeyboardInterrupt):
        splade.save_pretrained(tmp_path)
    assert not (tmp_path / "modules.json").exists()
    (tmp_path / ".saving-killed").mkdir()
    filling.remove_half_saved(tmp_path)
    assert not list(tmp_path.glob(".saving-*"))


def test_weights_of_an_earlier_save_are_not_loaded_in_place_of_the_new_ones(tmp_path):
    first, tokenizer = tiny.build("bert", seed=1)
    second, _ = tiny.build("bert", seed=2)
    first.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    save_encoder(tmp_path, second, tokenizer, pooling="max", max_length=32)
    assert [path.name for path in tmp_path.glob("model*")] == ["model.safetensors"]
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded.bert.embeddings.word_embeddings.weight.detach(),
                                  second.bert.embeddings.word_embeddings.weight.detach())  # fmt: skip


def test_saved_tokenizers_pad_on_the_right(bert_folder, tmp_path):
    """Stock tools pad as the folder says; on the left, BERT's positions would depend on the longest text."""
    from sentence_transformers import SparseEncoder

    model, tokenizer = tiny.build("bert")
    tokenizer.padding_side = "left"
    splade = Splade(model, tokenizer=tokenizer, max_length=32)
    splade.save_pretrained(tmp_path)
    stock = SparseEncoder(str(tmp_path), device="cpu").encode(tiny.TEXTS, convert_to_sparse_tensor=False)
    np.testing.assert_allclose(splade.encode_docs(tiny.TEXTS).toarray(), stock.numpy(), atol=1e-4)
    assert tokenizer.padding_side == "left"  # the caller's is left alone
