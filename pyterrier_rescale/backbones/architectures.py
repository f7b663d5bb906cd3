"""Small tokenizers and untrained masked LMs of known families, with the libraries' own initialisation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

from .settings import FAMILIES, BackboneSettings

if TYPE_CHECKING:
    from tokenizers import BertWordPieceTokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # their ids are their places
POSITIONS = 512
_LETTERS = 200  # that WordPiece keeps, the most frequent ones


def train_tokenizer(settings: BackboneSettings, texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Train a WordPiece (BERT) or byte-level BPE tokenizer; both put [CLS] before and [SEP] after a text.

    In the byte-level one every word start is ``Ġword``, that of the text included, so that a word has one term.
    """
    from tokenizers import ByteLevelBPETokenizer, Tokenizer, processors
    from transformers import PreTrainedTokenizerFast

    if settings.family == "bert":
        trained = _word_pieces(settings, list(texts))
    else:
        trained = ByteLevelBPETokenizer(add_prefix_space=True, lowercase=settings.lowercase)
        trained.train_from_iterator(
            texts, settings.vocab_size, min_frequency=0, special_tokens=list(SPECIAL), show_progress=False
        )
    tokenizer = Tokenizer.from_str(trained.to_str())
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", SPECIAL.index("[CLS]")), ("[SEP]", SPECIAL.index("[SEP]"))],
    )
    names = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=POSITIONS, **dict(zip(names, SPECIAL, strict=True))
    )


def _word_pieces(settings: BackboneSettings, texts: list[str]) -> BertWordPieceTokenizer:
    """WordPiece with the same pieces and numbers in every run.

    The trainer numbers letters inside words anew in every run and breaks ties by that. As special tokens they have
    fixed numbers; so the pieces are learnt in one tokenizer and go into another, to which they are not special.
    """
    from tokenizers import BertWordPieceTokenizer

    learner = BertWordPieceTokenizer(lowercase=settings.lowercase)
    counts = Counter("".join("".join(learner.normalize(text).split()) for text in texts))
    letters = sorted(sorted(counts, key=lambda letter: (-counts[letter], letter))[:_LETTERS])
    learner.train_from_iterator(
        texts, settings.vocab_size, min_frequency=0, limit_alphabet=len(letters), initial_alphabet=letters,
        special_tokens=[*SPECIAL, *(f"##{letter}" for letter in letters)], show_progress=False,
    )  # fmt: skip
    tokenizer = BertWordPieceTokenizer(learner.get_vocab(), lowercase=settings.lowercase)
    tokenizer.add_special_tokens(list(SPECIAL))
    return tokenizer


def build_model(settings: BackboneSettings, vocab_size: int) -> PreTrainedModel:
    """Return a masked LM with random weights, by torch's global seed, for a tokenizer of ``vocab_size`` tokens."""
    import torch
    import transformers

    pad, _, cls, sep, _ = range(len(SPECIAL))
    kind = FAMILIES[settings.family]
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
