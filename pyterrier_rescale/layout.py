"""The standard folder of a SPLADE encoder: what AutoModelForMaskedLM, SparseEncoder and pyterrier_splade load."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .loading import no_weight_bars

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Names that sentence-transformers 5.0 and later (6.x) resolve.
_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.sparse_encoder.models.MLMTransformer"},
    {
        "idx": 1,
        "name": "1",
        "path": "1_SpladePooling",
        "type": "sentence_transformers.sparse_encoder.models.SpladePooling",
    },
]
_POOLING = "1_SpladePooling/config.json"


def save_encoder(
    path: str | Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, pooling: str, max_length: int
) -> None:
    """Save model, tokenizer, pooling and length so that stock tools compute the same vectors.

    Raises:
        OSError: if the folder cannot be written.
    """
    path = Path(path)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"path must be a folder, {str(path)!r} is a file")
    path.mkdir(parents=True, exist_ok=True)
    with no_weight_bars():
        model.save_pretrained(path)
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = max_length
    tokenizer.save_pretrained(path)
    _write(path / _POOLING, {"pooling_strategy": pooling, "activation_function": "relu"})
    _write(path / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    _write(
        path / "config_sentence_transformers.json",
        {"model_type": "SparseEncoder", "prompts": {}, "default_prompt_name": None, "similarity_fn_name": "dot"},
    )
    _write(path / "modules.json", _MODULES)  # last: its presence marks a whole folder


def saved_settings(path: str | Path) -> dict[str, Any]:
    """``pooling`` and ``max_length`` of a saved encoder; empty for a plain masked LM or a hub name."""
    path = Path(path).expanduser()
    if not (path / "modules.json").exists():
        return {}
    settings: dict[str, Any] = {}
    for file, key, name in (
        (_POOLING, "pooling_strategy", "pooling"),
        ("sentence_bert_config.json", "max_seq_length", "max_length"),
        ("tokenizer_config.json", "model_max_length", "max_length"),
    ):
        if name not in settings and (path / file).exists():
            value = json.loads((path / file).read_text(encoding="utf-8")).get(key)
            if isinstance(value, str) or (isinstance(value, int) and value < 1_000_000):
                settings[name] = value
    return settings


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
