"""Tiny masked LMs with random weights, NON-ZERO biases and trained tokenizers, one builder per family."""

from __future__ import annotations

import json
from functools import cache

import torch
import transformers
from tokenizers import (
    BertWordPieceTokenizer,
    ByteLevelBPETokenizer,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)  # fmt: skip
from transformers import PreTrainedTokenizerFast

TEXTS = [
    "Sparse retrieval expands a query with related terms before matching.",
    "A masked language model predicts a distribution over its vocabulary for every token.",
    "The inverted index maps each term to the documents that contain it.",
    "Divide the projection of the head by a constant, and the scores shrink.",
    "Queries are short; documents are long, and both are bags of weighted words.",
    "Training with in-batch negatives uses the other documents of the batch.",
    "Rare terms carry more information than frequent ones, says the formula of BM25.",
    "An encoder that fires on every term is slow, one that fires on none is useless.",
    "Tokenizers split words into pieces: prefix, stem and suffix.",
    "Evaluation needs topics, relevance judgements and a measure such as nDCG.",
    "The café served naïve readers 42 croissants in 2024.",
    "Gradients explode when the softmax saturates at the start.",
]
DOCUMENTS = [{"docno": f"d{i}", "text": text} for i, text in enumerate(TEXTS)]

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]


@cache
def _backend(kind: str, size: int) -> str:
    texts, options = TEXTS * 4, {"vocab_size": size, "min_frequency": 0, "show_progress": False}
    if kind == "wordpiece":
        tokenizer = BertWordPieceTokenizer(lowercase=True)
        # the trainer numbers letters inside words anew in every run and breaks ties by that; special tokens keep theirs
        letters = sorted(set(tokenizer.normalize("".join(texts))) - {" "})
        inside = [f"##{letter}" for letter in letters]
        tokenizer.train_from_iterator(texts, initial_alphabet=letters, special_tokens=[*SPECIAL, *inside], **options)
    elif kind == "bpe":
        tokenizer = ByteLevelBPETokenizer(add_prefix_space=True)
        tokenizer.train_from_iterator(texts, special_tokens=SPECIAL, **options)
    else:
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
        tokenizer.decoder = decoders.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=size, special_tokens=SPECIAL, unk_token="[UNK]", show_progress=False
        )
        tokenizer.train_from_iterator(texts, trainer)
    tokenizer = _settled(tokenizer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return tokenizer.to_str()


def _settled(trained: Tokenizer) -> Tokenizer:
    """The same tokenizer in every run: only the real special tokens special, ties in the order of the alphabet."""
    state = json.loads(trained.to_str())
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in SPECIAL]
    if state["model"]["type"] == "Unigram":
        pieces = [(piece, round(score, 4)) for piece, score in state["model"]["vocab"]]  # sums in any order
        fixed = [piece for piece in pieces if piece[0] in SPECIAL]
        state["model"]["vocab"] = fixed + sorted((p for p in pieces if p not in fixed), key=lambda p: (-p[1], p[0]))
    return Tokenizer.from_str(json.dumps(state))


def tokenizer(kind: str = "wordpiece", size: int = 400, max_length: int = 64) -> PreTrainedTokenizerFast:
    """A trained tokenizer: ``wordpiece`` (lower-cased), ``bpe`` (byte level) or ``unigram`` (SentencePiece-like)."""
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer.from_str(_backend(kind, size)),
        pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
        model_max_length=max_length,
    )  # fmt: skip


class Vocabulary:
    """As much of a tokenizer as terms and their folding need."""

    def __init__(self, tokens, special=(), added=()):
        self.tokens, self.all_special_ids, self.added = tokens, special, added

    def get_vocab(self):
        return {token: index for index, token in enumerate(self.tokens)}

    def convert_tokens_to_string(self, tokens):
        kinds = {"\u0120": decoders.ByteLevel(), "\u2581": decoders.Metaspace()}
        marks = [mark for mark in kinds if any(token.startswith(mark) for token in self.tokens)]
        return (kinds[marks[0]] if marks else decoders.WordPiece()).decode(tokens)

    def get_added_vocab(self):
        return {token: self.tokens.index(token) for token in self.added}


_SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
#: family -> (config class, extra settings, tokenizer kind)
FAMILIES: dict[str, tuple[str, dict, str]] = {
    "bert": ("BertConfig", {}, "wordpiece"),
    "distilbert": ("DistilBertConfig", {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}, "wordpiece"),
    "roberta": ("RobertaConfig", {"pad_token_id": 0}, "bpe"),
    "xlm-roberta": ("XLMRobertaConfig", {"pad_token_id": 0}, "unigram"),
    "camembert": ("CamembertConfig", {"pad_token_id": 0}, "unigram"),
    "mpnet": ("MPNetConfig", {"pad_token_id": 0}, "wordpiece"),
    "albert": ("AlbertConfig", {"embedding_size": 16}, "unigram"),
    "electra": ("ElectraConfig", {"embedding_size": 16}, "wordpiece"),
    "convbert": ("ConvBertConfig", {"embedding_size": 32, "conv_kernel_size": 3}, "wordpiece"),
    "deberta-v2": (
        "DebertaV2Config", {"legacy": True, "relative_attention": True, "pos_att_type": ["p2c", "c2p"]}, "unigram"
    ),
    "nomic": ("NomicBertConfig", {"head_dim": 8}, "wordpiece"),
    "modernbert": (
        "ModernBertConfig",
        {"pad_token_id": 0, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3,
         "global_attn_every_n_layers": 1},
        "bpe",
    ),
    "eurobert": (
        "EuroBertConfig",
        {"num_key_value_heads": 4, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3},
        "bpe",
    ),
    "ernie": ("ErnieConfig", {}, "wordpiece"),
    "megatron-bert": ("MegatronBertConfig", {}, "wordpiece"),
}  # fmt: skip


def build(family: str, *, seed: int = 0, padding_rows: int = 0, **settings):
    """A tiny masked LM of a family and its tokenizer; all biases and norms random, none zero."""
    config_class, extra, kind = FAMILIES[family]
    tok = tokenizer(kind)
    torch.manual_seed(seed)
    config = getattr(transformers, config_class)(
        vocab_size=len(tok) + padding_rows, **{**_SIZE, "max_position_embeddings": 80, **extra, **settings}
    )
    model = transformers.AutoModelForMaskedLM.from_config(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(0, 0.3)
            elif parameter.dim() == 1:
                parameter.add_(torch.randn_like(parameter) * 0.1)
    model.tie_weights()
    return model, tok


def qwen():
    """A tiny causal language model and its tokenizer."""
    tok = tokenizer("bpe")
    torch.manual_seed(0)
    sizes = {**_SIZE, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "vocab_size": len(tok)}
    return transformers.AutoModelForCausalLM.from_config(transformers.Qwen3Config(**sizes)).eval(), tok


def save(family: str, path, **settings) -> str:
    """Build and save a tiny model; returns the folder."""
    model, tok = build(family, **settings)
    model.save_pretrained(path)
    tok.save_pretrained(path)
    return str(path)


def save_body(family: str, path) -> str:
    """The folder of a tiny encoder without a head, pooler included where the family has one."""
    model, tok = build(family)
    model.save_pretrained(path / "masked")
    body = transformers.AutoModel.from_pretrained(path / "masked")
    body.config.architectures = None
    body.save_pretrained(path / "body")
    tok.save_pretrained(path / "body")
    return str(path / "body")
