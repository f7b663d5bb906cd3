"""The options of the head as plain formulas over the whole (B, L, V) logits of a stock model."""

from __future__ import annotations

import numpy as np
import torch


def dense_weights(
    model, tokenizer, texts, *, shift=0.0, pooling="max", activation="relu", max_length=64, position_top_k=None,
    fold=None,
):  # fmt: skip
    """Term weights (B, V), differentiable, of texts padded to the longest."""
    batch = tokenizer(texts, truncation=True, max_length=max_length, padding=True, return_tensors="pt")
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits - shift
    weights = dense_pooled(logits, batch["attention_mask"], pooling, activation, position_top_k)
    return weights if fold is None else dense_fold(weights, variants(tokenizer, weights.shape[1]))


def dense_pooled(logits, mask, pooling="max", activation="relu", position_top_k=None):
    """Term weights (B, V) of all logits; those that are not among a position's k largest are left out."""
    weights = torch.log1p(torch.relu(logits)) * mask[..., None]
    weights = torch.log1p(weights) if activation == "log1p_relu" else weights
    if position_top_k is not None:
        kept = logits.topk(min(position_top_k, logits.shape[2]), dim=2).indices
        weights = weights * torch.zeros_like(logits).scatter(2, kept, 1.0)
    return weights.amax(dim=1) if pooling == "max" else weights.sum(dim=1)


def by_sparse_encoder(folder, documents, queries=None):
    """Vectors of documents and of queries (the same texts if not given) as stock sentence-transformers gives them."""
    from sentence_transformers import SparseEncoder

    encoder, queries = SparseEncoder(str(folder), device="cpu"), documents if queries is None else queries
    both = encoder.encode_document(documents), encoder.encode_query(queries)
    return [np.asarray(vectors.to_dense()) for vectors in both]


def dense_fold(weights, classes):
    """The largest weight of each class of columns, at its first member; zeros at the others."""
    largest = torch.stack([weights[:, members].amax(dim=1) for members in classes], dim=1)
    return torch.zeros_like(weights).index_copy(1, torch.tensor([members[0] for members in classes]), largest)


def variants(tokenizer, vocab_size):
    """Classes of token ids by the text that the tokenizer's own decoder gives, in lower case, one space taken off.

    The first member is the one in lower case that starts a word, as far as there is one, of the lowest id.
    """
    tokens = {index: token for token, index in tokenizer.get_vocab().items()}
    classes = {}
    for index in range(vocab_size):
        token = tokens.get(index)
        text = None if token is None else tokenizer.convert_tokens_to_string([token])
        if text is None or index in tokenizer.all_special_ids or "\ufffd" in text or not text.strip(" "):
            classes[index] = [(0, index)]
            continue
        text = text.removeprefix(" ")
        place = (text != text.lower(), token[0] not in "\u0120\u2581", index)
        classes.setdefault(text.lower(), []).append(place)
    return [[index for *_, index in sorted(members)] for members in classes.values()]


def head_of_padded(hidden, weight, bias, mask, pooling="max", *, screen=None, **description):
    """The sparse head (B, V) of padded hidden states (B, L, H)."""
    from pyterrier_rescale.encoding.description import Description
    from pyterrier_rescale.encoding.kernel import packed_head

    mask = mask.bool()
    how = Description(pooling=pooling, **description)
    return packed_head(hidden[mask], mask.sum(dim=1), weight, bias, how, screen=screen)
