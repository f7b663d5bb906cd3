"""Encoders saved by us and by others, in folders and under hub names: computed as SparseEncoder does, or refused."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil

import numpy as np
import pytest
import tiny
import torch
from dense import by_sparse_encoder, dense_weights
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoTokenizer

from pyterrier_rescale import Splade, audit, train
from pyterrier_rescale.encoding.description import Description, QuerySide
from pyterrier_rescale.encoding.saved_folder import save_encoder

SIZE = 397  # of the tiny BERT's vocabulary
WEIGHTS = np.linspace(0, 1, SIZE, dtype=np.float32)
OTHER, _ = tiny.build("bert", seed=5)
SIDES = {
    "alike": QuerySide(),
    "shorter": QuerySide(max_length=6),
    "pooled otherwise": QuerySide(pooling="sum", activation="log1p_relu", max_length=9),
    "static": QuerySide(weights=WEIGHTS, max_length=7),
    "static, of a cased tokenizer": QuerySide(weights=np.ones(400, dtype=np.float32), tokenizer=tiny.tokenizer("bpe")),
    "lexical": QuerySide(weights=WEIGHTS, times_model=True),
    "another model": QuerySide(model=OTHER, tokenizer=tiny.tokenizer(), max_length=12),
}


def save(folder, side="alike", *, family="bert", **fields):
    """A saved encoder of texts of 20 tokens."""
    model, tokenizer = tiny.build(family, **({"padding_rows": 8} if "cased" in side else {}))
    save_encoder(folder, model, tokenizer, Description(**{"max_length": 20, **fields, "queries": SIDES[side]}))
    return folder


def change(folder, file, **entries):
    path = folder / file
    path.write_text(json.dumps({**(json.loads(path.read_text()) if path.exists() else {}), **entries}))


def check_like_sparse_encoder(folder, texts=tiny.TEXTS):
    splade = Splade(folder)
    for ours, stock in zip((splade.encode_docs(texts), splade.encode_queries(texts)), by_sparse_encoder(folder, texts),
                           strict=True):  # fmt: skip
        np.testing.assert_allclose(ours.toarray()[:, : stock.shape[1]], stock, atol=1e-4)
        assert not ours[:, stock.shape[1] :].nnz
    return splade


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("way", ["ours", "saved by SparseEncoder"])
def test_every_query_side_in_every_tool(side, way, tmp_path):
    from sentence_transformers import SparseEncoder

    folder = save(tmp_path / "m", side)
    if way != "ours":
        SparseEncoder(str(folder), device="cpu").save_pretrained(str(tmp_path / "n"))
        folder = tmp_path / "n"
    splade = check_like_sparse_encoder(folder)
    assert (splade.encode_docs(tiny.TEXTS) != splade.encode_queries(tiny.TEXTS)).nnz or side == "alike"
    splade.save_pretrained(tmp_path / "again")
    again = check_like_sparse_encoder(tmp_path / "again")
    assert again == splade == pickle.loads(pickle.dumps(splade)) == copy.deepcopy(splade)
    if way == "ours":
        stock, tokenizer = AutoModelForMaskedLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        expected = dense_weights(stock.eval(), tokenizer, tiny.TEXTS, max_length=20).detach().numpy()
        np.testing.assert_allclose(splade.encode_docs(tiny.TEXTS).toarray(), expected, atol=1e-4)


FOLLOWED = {
    "lengths of both sides": ("sentence_bert_config.json", {"query_length": 5, "document_length": 11}),
    "length of documents": ("sentence_bert_config.json", {"document_length": 11, "max_seq_length": None}),
    "lower case": ("sentence_bert_config.json", {"do_lower_case": True}),
}


@pytest.mark.parametrize("name", FOLLOWED)
def test_settings_that_are_followed(name, tmp_path):
    file, entries = FOLLOWED[name]
    folder = save(tmp_path / "m", family="modernbert")
    change(folder, file, **entries)
    texts = [text.title() for text in tiny.TEXTS]
    splade = check_like_sparse_encoder(folder, texts)
    splade.save_pretrained(tmp_path / "n")
    assert check_like_sparse_encoder(tmp_path / "n", texts) == splade


@pytest.mark.parametrize("family", ["bert", "roberta", "xlm-roberta", "modernbert"])
def test_lower_casing_is_kept_by_the_saved_folder(family, tmp_path):
    """Also where the tokenizer's class would build its own normaliser anew at loading."""
    model, tokenizer = tiny.build(family)
    if family == "bert":
        from transformers import BertTokenizer

        vocabulary = tokenizer.get_vocab()
        tokenizer = BertTokenizer(vocab=vocabulary, do_lower_case=False)
    shouted, spoken = [text.upper() for text in tiny.TEXTS], [text.lower() for text in tiny.TEXTS]
    plain = Splade(model, tokenizer=tokenizer, max_length=32).encode_docs(spoken)
    splade = Splade(model, tokenizer=tokenizer, max_length=32, lowercase=True)
    splade.save_pretrained(tmp_path)
    for one in (splade, Splade(tmp_path)):
        assert abs(one.encode_docs(shouted) - plain).max() < 1e-5
    np.testing.assert_allclose(by_sparse_encoder(tmp_path, shouted)[0], plain.toarray(), atol=1e-4)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] != "TokenizersBackend" and config["model_input_names"], "for transformers 4"
    assert config.get("add_prefix_space", False) == (family in ("roberta", "modernbert")), "its default is another one"


REFUSED = {
    "query prompt": ("config_sentence_transformers.json", {"prompts": {"query": "q: ", "document": ""}}, "prompts="),
    "passage prompt": ("config_sentence_transformers.json", {"prompts": {"passage": "p: "}}, "prompts="),
    "most terms": ("config_sentence_transformers.json", {"max_active_dims": 8}, "max_active_dims=8"),
    "processing": ("sentence_bert_config.json", {"processing_kwargs": {"text": {"max_length": 9}}}, "processing_kw"),
    "another setting": ("1_SpladePooling/config.json", {"pool_prefix": "skip"}, "pool_prefix='skip'"),
    "another folding": ("1_SpladePooling/config.json", {"vocab_fold": "stem"}, "fold must be .*'case'.*got 'stem'"),
    "another shift": ("1_SpladePooling/config.json", {"logit_shift": "high"}, "shift must be a finite number"),
    "no number": ("1_SpladePooling/config.json", {"position_top_k": 2.5}, "position_top_k must be an integer"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_settings_that_are_not_followed_are_refused_by_name(name, tmp_path):
    file, entries, message = REFUSED[name]
    folder = save(tmp_path / "m")
    change(folder, file, **entries)
    for use in (Splade, lambda path: audit(path, tiny.TEXTS)):
        with pytest.raises(ValueError, match=message):
            use(folder)


MODULES = {
    "more modules": (1, "sentence_transformers.models.Normalize", "documents go through .*Normalize"),
    "of another package": (0, "model.pooling.SpladePooling", "documents go through .*model.pooling.SpladePooling"),
    "of another name": (0, "someone.SquaredSpladePooling", "documents go through .*SquaredSpladePooling"),
}


@pytest.mark.parametrize("name", MODULES)
def test_modules_that_are_not_followed(name, tmp_path):
    more, kind, message = MODULES[name]
    folder = save(tmp_path / "m")
    modules = json.loads((folder / "modules.json").read_text())
    modules = modules + [{"path": "2", "type": kind}] if more else [modules[0], {**modules[1], "type": kind}]
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ValueError, match=message) as caught:
        Splade(folder)
    assert "AutoModelForMaskedLM" not in str(caught.value)
    (folder / "modules.json").write_text("<html>not found</html>")
    with pytest.raises(ValueError, match="modules.json is not JSON"):
        Splade(folder)


def test_queries_with_options_of_their_own(tmp_path):
    folder = save(tmp_path / "m", "pooled otherwise")
    change(folder, "1_SpladePooling/config.json", position_top_k=12)
    with pytest.raises(ValueError, match="queries have other options"):
        Splade(folder)
    change(folder, "query_1_SpladePooling/config.json", position_top_k=12)
    assert Splade(folder).position_top_k == 12


def test_folders_without_modules(tmp_path):
    """As long as SparseEncoder reads them; queries that only other tools' files tell of are refused."""
    folder = tmp_path / "m"
    tiny.save("bert", folder)  # a tokenizer of 64 tokens, 80 positions
    texts = [" ".join(tiny.TEXTS)] * 2
    splade = Splade(folder)
    assert splade.max_length == 64
    with pytest.warns(UserWarning, match=r"2 of 2 texts \(100%\) have max_length=64 tokens or more"):
        documents = splade.encode_docs(texts)
    np.testing.assert_allclose(documents.toarray(), by_sparse_encoder(folder, texts)[0], atol=1e-4)
    change(folder, "tokenizer_config.json", model_max_length=10**30)
    assert Splade(folder).max_length == 80
    change(folder, "model_args.json", splade_doc=True)
    with pytest.raises(ValueError, match="splade_doc in model_args.json"):
        Splade(folder)


def test_static_weights_in_an_older_file_or_in_none(tmp_path):
    folder = save(tmp_path / "m", "static")
    before, side = Splade(folder).encode_queries(tiny.TEXTS).toarray(), folder / "query_0_SparseStaticEmbedding"
    torch.save(load_file(side / "model.safetensors"), side / "pytorch_model.bin")
    (side / "model.safetensors").unlink()
    assert np.array_equal(Splade(folder).encode_queries(tiny.TEXTS).toarray(), before) and before.any()
    (side / "pytorch_model.bin").unlink()
    with pytest.raises(ValueError, match="not in query_0_SparseStaticEmbedding/model.safetensors"):
        Splade(folder)


WHERE = ["stock module", "custom module", "model", "no modules"]


@pytest.mark.parametrize("where", WHERE)
def test_the_options_of_sparseup(where, tmp_path):
    """As its folders name them, wherever they stand; the same as the plain formula, and as our own save of it."""
    model, tok = tiny.build("modernbert")
    folder = save(tmp_path / "m", family="modernbert")
    options = {"logit_shift": 0.1, "position_top_k": 12, "vocab_fold": "case_space"}
    change(folder, "config.json" if where in WHERE[2:] else "1_SpladePooling/config.json", **options)
    if where == "custom module":
        modules = json.loads((folder / "modules.json").read_text())
        modules[1]["type"] = "sparseup.FoldedSpladePooling"
        (folder / "modules.json").write_text(json.dumps(modules))
        change(folder, "1_SpladePooling/config.json", embedding_dimension=len(tok), chunk_size=None)
    if where == "no modules":
        (folder / "modules.json").unlink()
    splade = Splade(folder, max_length=20)
    assert (splade.shift, splade.position_top_k, splade.fold) == (0.1, 12, "case")
    with torch.no_grad():
        expected = dense_weights(model, tok, tiny.TEXTS, shift=0.1, position_top_k=12, fold="case", max_length=20)
    np.testing.assert_allclose(splade.encode_docs(tiny.TEXTS).toarray(), expected.numpy(), atol=1e-4)
    splade.save_pretrained(tmp_path / "ours")
    again = Splade(tmp_path / "ours")
    assert again.shift is None, "our folders hold it in the bias"
    assert again == splade
    change(folder, "1_SpladePooling/config.json", logit_shift=0, position_top_k=None, vocab_fold="none", other=None)
    if where == "stock module":
        assert Splade(folder) == Splade(save(tmp_path / "plain", family="modernbert"))


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """Put a folder into a cache as huggingface_hub lays it out, with no network."""
    from huggingface_hub import constants

    commit = "0123456789abcdef0123456789abcdef01234567"
    repository = tmp_path / "hub" / "models--someone--encoder"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text(commit)
    for module in (constants, __import__("transformers.utils.hub", fromlist=["hub"])):
        for name in ("HF_HUB_CACHE", "TRANSFORMERS_CACHE"):
            if hasattr(module, name):
                monkeypatch.setattr(module, name, str(tmp_path / "hub"))
    (repository / ".no_exist" / commit).mkdir(parents=True)
    return repository / "snapshots" / commit, repository / ".no_exist" / commit


@pytest.mark.parametrize("side", ["alike", "static", "another model", "nested"])
def test_hub_names_are_read_as_folders_are(side, tmp_path, hub):
    from sentence_transformers import SparseEncoder

    folder = save(tmp_path / "m", "static" if side == "nested" else side, pooling="sum")
    if side == "nested":
        SparseEncoder(str(folder), device="cpu").save_pretrained(str(tmp_path / "n"))
        folder = tmp_path / "n"
    (folder / ".gitattributes").touch()  # it was fetched whole
    shutil.copytree(folder, hub[0])
    named, read = Splade("someone/encoder"), Splade(folder)
    assert (named.pooling, named.max_length) == ("sum", 20) and named.fingerprint == read.fingerprint
    assert abs(named.encode_queries(tiny.TEXTS) - read.encode_queries(tiny.TEXTS)).max() == 0
    if side == "nested":
        assert audit("someone/encoder", tiny.TEXTS).numbers == audit(folder, tiny.TEXTS).numbers


def test_half_a_cache_is_refused_unless_it_knows(tmp_path, hub):
    """AutoModel has fetched the model; whether there are modules, and which, nobody has asked."""
    shutil.copytree(save(tmp_path / "m", pooling="sum"), hub[0])
    (hub[0] / "1_SpladePooling" / "config.json").unlink()
    with pytest.raises(FileNotFoundError, match="1_SpladePooling/config.json was never fetched.* hf download someone"):
        Splade("someone/encoder")
    (hub[0] / "modules.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"modules\.json was never fetched"):
        Splade("someone/encoder")
    for file in ("modules.json", "idf.json", "model_args.json"):
        (hub[1] / file).touch()
    assert Splade("someone/encoder").pooling == "max", "the hub has said that it has none of them"


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


def test_a_model_card_is_written_where_there_is_none(bert_folder, tmp_path):
    splade = Splade(bert_folder, rescale=4.0, shift=0.5, position_top_k=6)
    splade.save_pretrained(tmp_path)
    card = (tmp_path / "README.md").read_text()
    for told in ("- pyterrier_rescale", "k = 4)", "lowered (by 0.5", "`position_top_k=6`"):
        assert told in card
    (tmp_path / "README.md").write_text("my own")
    splade.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == "my own"


def test_weights_of_an_earlier_save_are_not_loaded_in_place_of_the_new_ones(tmp_path):
    first, tokenizer = tiny.build("bert", seed=1)
    second, _ = tiny.build("bert", seed=2)
    first.save_pretrained(tmp_path, max_shard_size="20KB")
    assert (tmp_path / "model.safetensors.index.json").exists()
    save_encoder(tmp_path, second, tokenizer, Description(max_length=32))
    assert [path.name for path in tmp_path.glob("model*")] == ["model.safetensors"]
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    np.testing.assert_array_equal(loaded.bert.embeddings.word_embeddings.weight.detach(),
                                  second.bert.embeddings.word_embeddings.weight.detach())  # fmt: skip
    assert json.loads((tmp_path / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"


@pytest.mark.parametrize("family", ["bert", "roberta", "modernbert"])
def test_tokenizers_that_pad_on_the_left(family, tmp_path):
    """Positions would depend on the longest text: vectors are those of each text alone, also of the saved folder."""
    model, tokenizer = tiny.build(family)
    alone = np.concatenate([Splade(model, tokenizer=tokenizer).encode_docs([text]).toarray() for text in tiny.TEXTS])
    tokenizer.padding_side = "left"
    splade = Splade(model, tokenizer=tokenizer)
    splade.save_pretrained(tmp_path)
    np.testing.assert_allclose(splade.encode_docs(tiny.TEXTS).toarray(), alone, atol=1e-5)
    np.testing.assert_allclose(by_sparse_encoder(tmp_path, tiny.TEXTS)[0], alone, atol=1e-4)
    assert tokenizer.padding_side == "left"  # the caller's is left alone


def test_special_tokens_are_no_terms_if_so_wished(tmp_path):
    """As on OpenSearch's model cards, in every tool that loads the saved folder."""
    model, tokenizer = tiny.build("bert")
    plain = Splade(model, tokenizer=tokenizer, max_length=20)
    splade = Splade(model, tokenizer=tokenizer, max_length=20, shift=0.1, special_terms=False)
    expected = Splade(model, tokenizer=tokenizer, max_length=20, shift=0.1).encode_docs(tiny.TEXTS).toarray()
    assert expected[:, tokenizer.all_special_ids].any()
    expected[:, tokenizer.all_special_ids] = 0
    np.testing.assert_allclose(splade.encode_docs(tiny.TEXTS).toarray(), expected, atol=1e-5)
    splade.save_pretrained(tmp_path)
    np.testing.assert_allclose(by_sparse_encoder(tmp_path, tiny.TEXTS)[0], expected, atol=1e-4)
    assert Splade(tmp_path) == splade != plain
