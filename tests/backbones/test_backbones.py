from __future__ import annotations

import json
import math

import numpy as np
import pytest
import tiny
import torch
from transformers import AutoModelForMaskedLM, AutoTokenizer

from pyterrier_rescale import add_mlm_head, audit, backbones, calibrate, load_collection, train
from pyterrier_rescale.backbones import FAMILIES, BackboneSettings, small_backbone
from pyterrier_rescale.backbones.architectures import SPECIAL, train_tokenizer
from pyterrier_rescale.backbones.mlm import corrupt
from pyterrier_rescale.cli import main
from pyterrier_rescale.collections import write_beir

PAD, _, CLS, SEP, MASK = range(5)
SMALL = {"steps": 4, "vocab_size": 400, "layers": 1, "hidden": 32, "batch_size": 4, "max_length": 24}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    root = tmp_path_factory.mktemp("backbones")
    return {family: small_backbone(family, tiny.TEXTS, root, **SMALL) for family in FAMILIES}


@pytest.mark.parametrize(
    ("family", "model_class"),
    [("bert", "BertForMaskedLM"), ("modernbert", "ModernBertForMaskedLM"), ("roberta", "RobertaForMaskedLM")],
)
def test_stock_transformers_loads_the_folder(built, family, model_class):
    model, info = AutoModelForMaskedLM.from_pretrained(built[family], output_loading_info=True)
    tokenizer = AutoTokenizer.from_pretrained(built[family])
    assert type(model).__name__ == model_class
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert model.config.vocab_size == len(tokenizer) <= 400
    assert model.get_output_embeddings().weight.data_ptr() == model.get_input_embeddings().weight.data_ptr(), "tied"
    encoded = tokenizer(["sparse retrieval", ""], padding=True, return_tensors="pt")
    assert encoded["input_ids"][1].tolist()[:3] == [CLS, SEP, PAD]
    assert encoded["attention_mask"][1].tolist()[:3] == [1, 1, 0]
    logits = model(input_ids=encoded["input_ids"], attention_mask=encoded["attention_mask"]).logits
    assert logits.shape == (*encoded["input_ids"].shape, len(tokenizer)) and torch.isfinite(logits).all()
    names = ("pad", "unk", "cls", "sep", "mask")
    assert [getattr(tokenizer, f"{name}_token_id") for name in names] == list(range(5))
    assert [getattr(tokenizer, f"{name}_token") for name in names] == list(SPECIAL)


def test_word_starts_are_one_term_wherever_they_stand():
    tokenizer = train_tokenizer(BackboneSettings("modernbert", vocab_size=500), ["index the index"] * 5)
    assert tokenizer.tokenize("Index the index") == ["Ġindex", "Ġthe", "Ġindex"]
    assert tokenizer.decode(tokenizer("naïve 日本", add_special_tokens=False)["input_ids"]).strip() == "naïve 日本"
    cased = train_tokenizer(BackboneSettings("modernbert", vocab_size=500, lowercase=False), ["Index the index"] * 5)
    assert cased.tokenize("Index the index") == ["ĠIndex", "Ġthe", "Ġindex"]
    wordpiece = train_tokenizer(BackboneSettings("bert", vocab_size=500), ["index the index"] * 5)
    assert wordpiece.tokenize("Index the INDEX") == ["index", "the", "index"]


def test_record_and_cache(built, monkeypatch):
    record = json.loads((built["bert"] / "backbone.json").read_text())
    assert record["settings"] == {**record["settings"], **SMALL, "family": "bert", "seed": 0}
    assert [row["step"] for row in record["curve"]] == [1, 2, 3, 4]
    assert 0 < record["unigram_entropy"] < math.log(400) and record["seconds"] >= 0 and record["texts"] == 12
    root = built["bert"].parent

    def interrupted(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("pyterrier_rescale.backbones.mlm.pretrain", interrupted)
    assert small_backbone("bert", iter([*tiny.TEXTS, " "]), root, **SMALL) == built["bert"]
    for texts, settings in [(tiny.TEXTS[1:], {}), (tiny.TEXTS, {"seed": 1}), (tiny.TEXTS, {"masked": 0.6})]:
        with pytest.raises(KeyboardInterrupt):
            small_backbone("bert", texts, root, **{**SMALL, **settings})
    assert sorted(path.name for path in root.iterdir()) == sorted(path.name for path in built.values()), "none is left"


def test_the_seed_decides_the_weights(built, tmp_path):
    def weights(folder):
        return AutoModelForMaskedLM.from_pretrained(folder).get_input_embeddings().weight

    before = torch.get_rng_state()
    again = small_backbone("modernbert", tiny.TEXTS, tmp_path, **SMALL)
    assert torch.equal(torch.get_rng_state(), before), "the caller's random numbers stay as they are"
    assert torch.equal(weights(built["modernbert"]), weights(again))
    other = small_backbone("modernbert", tiny.TEXTS, tmp_path, **SMALL, seed=1)
    assert not torch.equal(weights(again), weights(other))


def test_word_pieces_are_the_same_in_every_run():
    texts = [*tiny.TEXTS, "ab ba cd dc " * 3]  # pairs of letters as frequent as each other
    first, *others = (train_tokenizer(BackboneSettings("bert", vocab_size=300), texts) for _ in range(6))
    vocabulary = first.get_vocab()
    assert all(other.get_vocab() == vocabulary for other in others)
    assert sorted(vocabulary.values()) == list(range(len(vocabulary)))
    assert [vocabulary[name] for name in SPECIAL] == list(range(len(SPECIAL)))
    # pieces inside words are pieces, not special tokens that would be cut out of any text
    assert first.tokenize("retrieval ##l") == [*first.tokenize("retrieval"), "[UNK]", "[UNK]", "l"]
    assert first.decode(first("sparse retrieval")["input_ids"], skip_special_tokens=True) == "sparse retrieval"


def test_pretraining_learns_more_than_frequencies(tmp_path):
    sizes = {**SMALL, "steps": 200, "batch_size": 12, "hidden": 64, "learning_rate": 5e-3}
    folder = small_backbone("bert", tiny.TEXTS * 200, tmp_path, chosen=0.25, masked=0.5, random=0.1, **sizes)
    report = json.loads((folder / "backbone.json").read_text())
    assert report["curve"][0]["mask_loss"] > report["unigram_entropy"] - 0.5
    assert report["curve"][-1]["mask_loss"] < 0.65 * report["unigram_entropy"]
    assert report["curve"][-1]["loss"] < report["curve"][-1]["mask_loss"], "a token that is shown is easier"


def test_shares_of_corruption():
    settings, tokenizer = BackboneSettings("bert", chosen=0.3, masked=0.5, random=0.1), tiny.tokenizer()
    ids = torch.full((500, 100), 77)
    ids[:, 0], ids[:, 50:] = CLS, PAD
    corrupted, chosen, hidden = corrupt(ids, settings, tokenizer, torch.Generator().manual_seed(0))
    assert not chosen[:, 0].any() and not chosen[:, 50:].any()
    assert torch.equal(corrupted[~chosen], ids[~chosen])
    assert torch.equal(corrupted == MASK, hidden)
    n = chosen.sum().item()
    noise = corrupted[chosen & ~hidden & (corrupted != ids)]
    assert n / (500 * 49) == pytest.approx(0.3, abs=0.015)
    assert hidden.sum().item() / n == pytest.approx(0.5, abs=0.03)
    assert len(noise) / n == pytest.approx(0.1, abs=0.03)
    assert noise.min() >= len(SPECIAL) and noise.max() == len(tokenizer) - 1


@pytest.mark.parametrize(
    ("settings", "error", "named"),
    [
        ({"family": "gpt"}, ValueError, "family must be one of 'bert', 'modernbert', 'roberta', 'minilm', got 'gpt'"),
        ({"steps": 0}, ValueError, "steps must be an integer >= 1, got 0"),
        ({"hidden": 100}, ValueError, "hidden must be a multiple of 32, got 100"),
        ({"max_length": 600}, ValueError, "max_length must be at most 512"),
        ({"chosen": 0}, ValueError, "chosen must be a number above 0 and below 1, got 0"),
        ({"masked": 0.8, "random": 0.3}, ValueError, r"masked \+ random at most 1, got .* and 1.1"),
        ({"learning_rate": float("nan")}, ValueError, "learning_rate must be a finite number > 0, got nan"),
        ({"depth": 3}, TypeError, "depth"),
        ({"texts": [" "]}, ValueError, "texts must hold at least one text"),
        ({"texts": ["\u200b"]}, ValueError, "no token to learn from"),
        ({"texts": "a text"}, TypeError, "texts must be a list of strings, .*got str"),
        ({"texts": {"text": "b"}}, TypeError, "texts must be a list of strings"),
        ({"family": "minilm", "layers": 3}, TypeError, "layers"),
    ],
)
def test_refusals(tmp_path, settings, error, named, monkeypatch):
    monkeypatch.setattr(backbones, "minilm_folder", lambda: tmp_path)
    with pytest.raises(error, match=named):
        small_backbone(**{"family": "bert", "texts": ["some text"], "cache": tmp_path, "steps": 2, **settings})
    assert list(tmp_path.iterdir()) == []


def test_another_default_dtype_changes_nothing(built, tmp_path):
    def measured():
        texts, cache = tiny.TEXTS * 2, tmp_path / str(torch.get_default_dtype())
        folder = small_backbone("bert", tiny.TEXTS, cache, **SMALL)
        calibration = calibrate(folder, texts, rate=0.2)
        model = add_mlm_head(AutoModelForMaskedLM.from_pretrained(folder).bert)
        options = {"rescale": "calibrated", "regularizer": "df_flops", "queries": "static", "max_steps": 2}
        options |= {"batch_size": 4, "max_length": 24, "verbose": False}
        splade = train(folder, [(text[:20], text) for text in texts], cache / "trained", **options)
        models = calibration.apply(folder), model, splade.encoder.model
        weights = [p.detach().numpy() for one in models for p in one.parameters()]
        vectors = [encode(tiny.TEXTS).data for encode in (splade.encode_docs, splade.encode_queries)]
        return [*weights, *vectors, calibration.bias_shift, audit(folder, texts).row_norms]

    expected = measured()
    torch.set_default_dtype(torch.bfloat16)
    try:
        found = measured()
    finally:
        torch.set_default_dtype(torch.float32)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == other.dtype == np.float32 and np.array_equal(one, other)


def test_the_verb_pretrains_on_a_collection(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PYTERRIER_RESCALE_HOME", str(tmp_path / "home"))
    write_beir(load_collection(documents=tiny.DOCUMENTS), tmp_path / "data")
    command = ["small-backbone", "bert", str(tmp_path / "data"), str(tmp_path / "out"), "--steps", "2", "--quiet"]
    for status, told in ((0, "bert of 12 texts"), (1, "exists already")):
        with pytest.raises(SystemExit) as stop:
            main(command)
        printed = capsys.readouterr()
        assert (stop.value.code or 0) == status and told in printed.out + printed.err
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "out").config.vocab_size == len(
        AutoTokenizer.from_pretrained(tmp_path / "out")
    )
