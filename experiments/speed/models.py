"""Models of random weights at full-size shapes, and the real texts that they encode."""

from __future__ import annotations

from pathlib import Path

#: name -> (family, layers, H, intermediate, heads, V)
SHAPES = {
    "a": ("bert", 6, 384, 1536, 12, 30522),
    "b": ("modernbert", 6, 384, 576, 6, 50368),
    "c": ("bert", 12, 768, 3072, 12, 30522),
    "d": ("modernbert", 22, 768, 1152, 12, 50368),
    "bert4": ("bert", 4, 256, 1024, 4, 30522),
    "bert2": ("bert", 2, 128, 512, 2, 8000),
}
ACTIVE = 220
MAX_LENGTH = 256


def some_texts(n: int, lengths: str = "mixed") -> list[str]:
    """Docstrings as they are, or (``equal``) run together and cut into texts that all fill MAX_LENGTH."""
    from pyterrier_rescale import load_collection

    documents = [d["text"] for d in load_collection("docstrings").corpus()]
    if lengths == "equal":
        words = " ".join(documents).split()  # a word has at least one token
        documents = [" ".join(words[i : i + MAX_LENGTH]) for i in range(0, len(words) - MAX_LENGTH, MAX_LENGTH)]
    step = max(1, len(documents) // n)
    return documents[::step][:n]


def build(shape: str, folder: Path) -> None:
    """A random model of the shape with a trained tokenizer; the bias lets ACTIVE terms fire per document."""
    import numpy as np
    import torch
    import transformers

    from pyterrier_rescale import Splade, load_collection
    from pyterrier_rescale.backbones.architectures import train_tokenizer
    from pyterrier_rescale.backbones.settings import BackboneSettings

    family, layers, hidden, intermediate, heads, vocab = SHAPES[shape]
    corpus = [d["text"] for d in load_collection("docstrings").corpus()]
    tokenizer = train_tokenizer(BackboneSettings(family, vocab_size=vocab), corpus)
    common = {
        "vocab_size": vocab, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "intermediate_size": intermediate, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    torch.manual_seed(0)
    if family == "bert":
        config = transformers.BertConfig(**common)
    else:
        ids = {
            "cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id,
            "bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id,
        }  # fmt: skip
        config = transformers.ModernBertConfig(**common, **ids)
    model = transformers.AutoModelForMaskedLM.from_config(config).eval()
    encoder = Splade(model, tokenizer=tokenizer, max_length=MAX_LENGTH).encoder
    with torch.no_grad():
        encoder.head.bias.fill_(100.0)  # all terms fire: the weights tell the pooled logits
        weights = encoder.encode(some_texts(48)).toarray()
        pooled = (np.expm1(weights.astype(np.float64)) - 100.0)[:, : len(tokenizer)]
        encoder.head.bias.fill_(-float(np.quantile(pooled, 1 - ACTIVE / pooled.shape[1])))
        encoder.head.bias[len(tokenizer) :] = -1e4  # pyterrier_splade fails where a row without a token fires
    Splade(model, tokenizer=tokenizer, max_length=MAX_LENGTH).save_pretrained(folder)
