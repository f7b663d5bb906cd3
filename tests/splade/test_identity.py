"""A Splade is what it computes: equal vectors, equal fingerprints; anything that changes a vector changes them."""

from __future__ import annotations

import copy
import json
import shutil

import numpy as np
import tiny
import torch
from tokenizers import Tokenizer
from transformers import AutoModelForMaskedLM, AutoTokenizer, BertJapaneseTokenizer

from pyterrier_rescale import Splade, rescale
from pyterrier_rescale.encoding.description import Description, QuerySide
from pyterrier_rescale.encoding.saved_folder import save_encoder
from pyterrier_rescale.heads.fingerprint import model_fingerprint, tokenizer_fingerprint


def test_retraining_into_one_folder_makes_another_encoder(tmp_path):
    path = tiny.save("bert", tmp_path / "m")
    before, twin = Splade(path), Splade(path)
    assert before == twin and hash(before) == hash(twin) and before.fingerprint == twin.fingerprint
    assert before.query_encoder() == twin.query_encoder()
    rescale(path, 4).save_pretrained(path)
    after = Splade(path)
    assert before != after and before.query_encoder() != after.query_encoder()
    assert before == twin


def test_everything_that_changes_a_vector_changes_it(tmp_path):
    path = tiny.save("bert", tmp_path / "m")
    tokens = AutoTokenizer.from_pretrained(path)
    model, _ = tiny.build("bert")

    def folder(name: str, **changes) -> str:
        shutil.copytree(path, tmp_path / name)
        config = json.loads((tmp_path / name / "config.json").read_text())
        (tmp_path / name / "config.json").write_text(json.dumps({**config, **changes}))
        return str(tmp_path / name)

    def queries(name: str, **side) -> str:
        save_encoder(tmp_path / name, model, tokens, Description(max_length=32, queries=QuerySide(**side)))
        return str(tmp_path / name)

    state = json.loads(tokens.backend_tokenizer.to_str())
    words = state["model"]["vocab"]
    one, two = [word for word in words if word.isalpha()][-2:]
    words[one], words[two] = words[two], words[one]
    other = copy.deepcopy(tokens)
    other._tokenizer = Tokenizer.from_str(json.dumps(state))
    left = AutoTokenizer.from_pretrained(path, truncation_side="left")
    weights = np.linspace(0, 1, len(tokens), dtype=np.float32)
    made = {
        "plain": Splade(path, max_length=32),
        "rescaled": Splade(path, max_length=32, rescale=2),
        "longer": Splade(path, max_length=33),
        "sum": Splade(path, max_length=32, pooling="sum"),
        "largest logits": Splade(path, max_length=32, position_top_k=3),
        "folded": Splade(path, max_length=32, fold="case"),
        "half": Splade(path, max_length=32, dtype="bfloat16"),
        "heads": Splade(folder("heads", num_attention_heads=2), max_length=32),
        "eps": Splade(folder("eps", layer_norm_eps=0.1), max_length=32),
        "swapped words": Splade(path, max_length=32, tokenizer=other),
        "cut at the left": Splade(path, max_length=32, tokenizer=left),
        "summed queries": Splade(queries("sq", pooling="sum")),
        "static": Splade(queries("st", weights=weights)),
        "other static": Splade(queries("os", weights=weights[::-1].copy())),
        "shorter static": Splade(queries("ss", weights=weights, max_length=16)),
    }
    seen = {name: splade.fingerprint for name, splade in made.items()}
    assert len(set(seen.values())) == len(seen), seen
    assert Splade(path, max_length=32, text_field="body").fingerprint == seen["plain"]
    assert Splade(path, max_length=32, text_field="body") != made["plain"]


def test_an_encoder_whose_model_is_trained_on_is_no_longer_the_same():
    model, tok = tiny.build("bert")
    splade = Splade(model, tokenizer=tok)
    before = splade.fingerprint
    model.get_input_embeddings().weight.data[7] += 1  # which torch does not count as a write, as fused optimizers'
    assert splade.fingerprint != before


def test_a_tokenizer_in_python_is_the_same_after_saving(tmp_path):
    """Of BERT's Japanese kind: no backend whose state could be read."""
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "sparse", "##s"]))
    made = BertJapaneseTokenizer(str(tmp_path / "vocab.txt"), word_tokenizer_type="basic", do_lower_case=False)
    made.save_pretrained(tmp_path / "a")
    loaded = BertJapaneseTokenizer.from_pretrained(tmp_path / "a")
    lower = BertJapaneseTokenizer(str(tmp_path / "vocab.txt"), word_tokenizer_type="basic", do_lower_case=True)
    assert tokenizer_fingerprint(made) == tokenizer_fingerprint(loaded) != tokenizer_fingerprint(lower)


def test_every_parameter_counts_to_the_last_bit(tmp_path):
    model = AutoModelForMaskedLM.from_pretrained(tiny.save("bert", tmp_path / "m"))
    seen = {model_fingerprint(model)}
    for name, parameter in model.named_parameters():
        other = copy.deepcopy(model)
        value = other.get_parameter(name).data.view(-1)
        value[-1] = torch.nextafter(value[-1], torch.tensor(9.0))
        seen.add(model_fingerprint(other))
        assert parameter.dtype == torch.float32
    assert len(seen) == 1 + len(list(model.named_parameters()))
    assert model_fingerprint(copy.deepcopy(model).bfloat16()) not in seen
