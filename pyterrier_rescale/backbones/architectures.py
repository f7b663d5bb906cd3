"""Small tokenizers and untrained masked LMs of known families, with the libraries' own initialisation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .settings import BackboneSettings

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # their ids are their places
POSITIONS = 512
_LETTERS = 200  # that WordPiece keeps, the most frequent ones


def train_tokenizer(settings: BackboneSettings, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train a WordPiece (BERT) or byte-level BPE tokenizer; both put [CLS] before and [SEP] after a text.

    In the byte-level one every word start is ``Ġword``, that of the text included, so that a word has one term.
    """
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    tokenizer = _word_pieces(settings, list(texts)) if settings.family == "bert" else _byte_level(settings, texts)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", SPECIAL.index("[CLS]")), ("[SEP]", SPECIAL.index("[SEP]"))],
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=POSITIONS, **dict(zip(names, SPECIAL, strict=True))
    )


def _byte_level(settings: BackboneSettings, texts: Iterable[str]) -> Tokenizer:
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    if settings.lowercase:
        tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), vocab_size=settings.vocab_size,
        special_tokens=list(SPECIAL), show_progress=False,
    )  # fmt: skip
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def _word_pieces(settings: BackboneSettings, texts: list[str]) -> Tokenizer:
    """WordPiece with the same pieces and numbers in every run.

    The trainer numbers the letters inside words in the order of a hash map, anew in every run, and breaks ties of its
    merges by these numbers. Named as special tokens they have fixed ones; so the pieces come from a trainer's
    tokenizer, and go into another one, to which they are not special.
    """
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

    def bare(model: models.WordPiece) -> Tokenizer:
        tokenizer = Tokenizer(model)
        tokenizer.normalizer = normalizers.BertNormalizer(lowercase=settings.lowercase)
        tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        tokenizer.decoder = decoders.WordPiece()
        return tokenizer

    learner = bare(models.WordPiece(unk_token="[UNK]"))
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update("".join(learner.normalizer.normalize_str(text).split()))
    letters = sorted(sorted(counts, key=lambda letter: (-counts[letter], letter))[:_LETTERS])
    trainer = trainers.WordPieceTrainer(
        initial_alphabet=letters, limit_alphabet=len(letters), vocab_size=settings.vocab_size,
        special_tokens=[*SPECIAL, *(f"##{letter}" for letter in letters)], show_progress=False,
    )  # fmt: skip
    learner.train_from_iterator(texts, trainer)
    tokenizer = bare(models.WordPiece(learner.get_vocab(with_added_tokens=True), unk_token="[UNK]"))
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def build_model(settings: BackboneSettings, vocab_size: int) -> PreTrainedModel:
    """Return a masked LM with random weights, by torch's global seed, for a tokenizer of ``vocab_size`` tokens."""
    import torch
    import transformers

    pad, _, cls, sep, _ = range(len(SPECIAL))
    kind = {"bert": "Bert", "modernbert": "ModernBert", "roberta": "Roberta"}[settings.family]
    if settings.family == "modernbert":
        # as in ModernBERT-base: its MLP is gated
        own = {"intermediate_size": settings.hidden * 3 // 2, "cls_token_id": cls, "sep_token_id": sep}
    else:  # half of the usual MLP, the costliest part of a step; no dropout, as one epoch of text cannot overfit
        own = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob"), 0.0)
        own["intermediate_size"] = settings.hidden * 2
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=vocab_size,
        hidden_size=settings.hidden,
        num_hidden_layers=settings.layers,
        num_attention_heads=settings.hidden // 32,
        max_position_embeddings=POSITIONS + (pad + 1) * (settings.family == "roberta"),  # which counts from pad + 1
        pad_token_id=pad,
        bos_token_id=cls,
        eos_token_id=sep,
        **own,
    )
    return getattr(transformers, f"{kind}ForMaskedLM")._from_config(config, dtype=torch.float32)
