"""What tells one encoder from another: parameters, tokenizer and settings, all that its vectors depend on."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from ..heads.fingerprint import model_fingerprint, settings_fingerprint, tokenizer_fingerprint
from ..heads.provenance import PROVENANCE

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from .query_encoder import StaticEncoder
    from .text_encoder import TextEncoder

# Entries of a config that say where a model comes from, not what it computes.
_ABOUT = {"_name_or_path", "name_or_path", "transformers_version", "architectures", "dtype", "torch_dtype",
          "id2label", "label2id", PROVENANCE}  # fmt: skip


def encoder_fingerprint(documents: TextEncoder, queries: TextEncoder | StaticEncoder) -> str:
    """Sixteen hex digits of all that the vectors of documents and queries depend on.

    Parameters (bit by bit), the model's config, the tokenizer (vocabulary, normalisation, special tokens), pooling and
    length of both sides, options of the head, static query weights. A saved folder and what it was saved from have the
    same; batch sizes and the device, which change a vector by rounding at most, and the column that texts are read from
    do not count.
    """
    model = documents.model
    parts = [model_fingerprint(model), config_content(model), tokenizer_fingerprint(documents.tokenizer)]
    return settings_fingerprint([*parts, _side(documents), _side(queries)])


def state_of(model: PreTrainedModel) -> tuple[tuple[int, int], ...]:
    """Where each parameter lies and how often it was written to: changes when the model is trained on or replaced."""
    return tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in model.parameters())


def _side(encoder: TextEncoder | StaticEncoder) -> list[Any]:
    weights = getattr(encoder, "weights", None)
    if weights is not None:
        return ["static", encoder.max_length, hashlib.sha256(weights.astype("<f4").tobytes()).hexdigest()]
    options = encoder.options.given()
    return [encoder.pooling, encoder.max_length, *([options] if options else [])]


def config_content(model: PreTrainedModel) -> Any:
    """What a model's config says about what it computes, as plain JSON values."""
    content = {key: value for key, value in model.config.to_dict().items() if key not in _ABOUT}
    return json.loads(json.dumps(content, default=str))  # keys as they are after a load
