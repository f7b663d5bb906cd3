"""What tells one model, or tokenizer, from another: a hash of its parameters, bit by bit, or of what it does."""

from __future__ import annotations

import hashlib
import json
import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def model_fingerprint(model: PreTrainedModel) -> str:
    """Sixteen hex digits of what a save of the model would hold: names, shapes, dtypes and every bit of the values.

    The same on every device and whether read from a folder or in memory; tied parameters count once.
    """
    import torch

    digest = hashlib.sha256(type(model).__name__.encode())
    seen: set[tuple[int, torch.Size]] = set()
    for name, tensor in sorted(model.state_dict().items()):  # what a save would write, so the same after a load
        place = (tensor.data_ptr(), tensor.shape)
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        digest.update(f"\0{name} {tuple(tensor.shape)} {tensor.dtype}\0".encode())
        digest.update(tensor.detach().reshape(-1).cpu().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def settings_fingerprint(settings: Any) -> str:
    """Sixteen hex digits of plain JSON values; dicts by their keys' order in the alphabet."""
    content = json.dumps(settings, sort_keys=True, ensure_ascii=True, allow_nan=True)
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Sixteen hex digits of how a tokenizer splits text; what it was last called with (padding, length) is left out."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        content: Any = json.loads(backend.to_str())
        del content["truncation"], content["padding"]
    else:  # in Python: its class, pieces and settings
        other = re.compile("file|local|path|_token|padding|max_length")
        kept = {key: str(value) for key, value in tokenizer.init_kwargs.items() if not other.search(key)}
        pieces = sorted(tokenizer.get_vocab().items())
        content = [type(tokenizer).__name__, pieces, tokenizer.special_tokens_map, kept]
    return settings_fingerprint([content, tokenizer.truncation_side])
