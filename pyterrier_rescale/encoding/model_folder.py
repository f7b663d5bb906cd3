"""The standard folder of a SPLADE encoder: what AutoModelForMaskedLM, SparseEncoder and pyterrier_splade load.

Where queries are encoded otherwise than documents, sentence-transformers' Router tells the two apart: ``encode_query``
and ``encode_document`` of ``SparseEncoder`` follow it. The masked LM stays at the root, so that tools which know
nothing of queries load it still (and encode both sides as documents).
"""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._utils.filling import filled
from ..heads.checkpoint import no_weight_bars
from .head_options import HeadOptions
from .query_encoder import QuerySide

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Names that sentence-transformers 5.0 and later (6.x) resolve.
_TYPES = "sentence_transformers.sparse_encoder.models"
_ROUTER = "sentence_transformers.models.Router"
_POOLING = "1_SpladePooling"
_QUERY_POOLING = "query_1_SpladePooling"
_QUERY_WEIGHTS = "query_0_SparseStaticEmbedding"
_MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": f"{_TYPES}.MLMTransformer"},
    {"idx": 1, "name": "1", "path": _POOLING, "type": f"{_TYPES}.SpladePooling"},
]
_MARK = "modules.json"
# Weights as transformers names them, whole or in shards: older ones beside new ones would be loaded in their place.
_WEIGHTS = re.compile(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?")


def save_encoder(
    path: str | Path,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    pooling: str,
    max_length: int,
    queries: QuerySide | None = None,
    options: HeadOptions | None = None,
) -> None:
    """Save model, tokenizer, pooling and length so that stock tools compute the same vectors.

    ``modules.json`` comes last: with it the folder is whole.

    Args:
        path: the folder.
        model: the masked LM.
        tokenizer: its tokenizer.
        pooling: ``"max"`` or ``"sum"``, of documents.
        max_length: tokens per text.
        queries: how queries are encoded; ``None``: as documents.
        options: of the head, which ``Splade`` follows; no stock tool knows them.

    Raises:
        OSError: if the folder cannot be written.
    """
    with filled(path, _MARK, replaced=_WEIGHTS) as stage:
        _write_encoder(stage, model, tokenizer, pooling, max_length, queries, options)


def _write_encoder(
    path: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, pooling: str, max_length: int,
    queries: QuerySide | None, options: HeadOptions | None,
) -> None:  # fmt: skip
    with no_weight_bars():
        model.save_pretrained(path)
    _save_tokenizer(path, tokenizer, max_length)
    _write(path / _POOLING / "config.json", _pooling(pooling))
    _write(path / "sentence_bert_config.json", {"max_seq_length": max_length, "do_lower_case": False})
    config = {"model_type": "SparseEncoder", "prompts": {}, "default_prompt_name": None, "similarity_fn_name": "dot"}
    if queries is not None and queries.max_length is not None:
        config["query_max_length"] = queries.max_length  # Splade reads it; SparseEncoder has one length for both sides
    config |= options.given() if options is not None else {}
    _write(path / "config_sentence_transformers.json", config)
    modules = _MODULES
    if queries is not None and not queries.alike:
        modules = [{"idx": 0, "name": "0", "path": "", "type": _ROUTER}]
        _save_queries(path, tokenizer, queries, max_length)
    _write(path / _MARK, modules)


def _save_queries(path: Path, tokenizer: PreTrainedTokenizerBase, queries: QuerySide, max_length: int) -> None:
    """The Router's configuration and its query modules; "." is the masked LM at the root."""
    types = {".": f"{_TYPES}.MLMTransformer", _POOLING: f"{_TYPES}.SpladePooling"}
    if queries.weights is None:
        route = [".", _QUERY_POOLING]
        types[_QUERY_POOLING] = f"{_TYPES}.SpladePooling"
        _write(path / _QUERY_POOLING / "config.json", _pooling(str(queries.pooling)))
    else:
        import torch
        from safetensors.torch import save_file

        route = [_QUERY_WEIGHTS]
        types[_QUERY_WEIGHTS] = f"{_TYPES}.SparseStaticEmbedding"
        folder = path / _QUERY_WEIGHTS
        # SparseStaticEmbedding takes as many weights as its tokenizer has tokens: name the head's padding rows
        tokenizer = copy.deepcopy(tokenizer)
        tokenizer.add_tokens([f"[row {i}]" for i in range(len(tokenizer.get_vocab()), len(queries.weights))])
        _save_tokenizer(folder, tokenizer, queries.max_length or max_length)
        save_file({"weight": torch.from_numpy(np.ascontiguousarray(queries.weights))}, folder / "model.safetensors")
        _write(folder / "config.json", {"frozen": False})
    _write(
        path / "router_config.json",
        {
            "types": types,
            "structure": {"query": route, "document": [".", _POOLING]},
            "parameters": {"default_route": "document", "allow_empty_key": True, "route_mappings": {}},
        },
    )


def _pooling(pooling: str) -> dict[str, str]:
    return {"pooling_strategy": pooling, "activation_function": "relu"}


def _save_tokenizer(path: Path, tokenizer: PreTrainedTokenizerBase, max_length: int) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_max_length = max_length
    tokenizer.padding_side = "right"  # as we pad: on the left, a text's positions would follow its batch mates
    tokenizer.save_pretrained(path)


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
