"""The folder of a SPLADE encoder: read, followed or refused by name, and written for stock tools.

A saved folder loads in AutoModelForMaskedLM, SparseEncoder and pyterrier_splade. Where queries are encoded otherwise
than documents, sentence-transformers' Router tells the two apart, which ``SparseEncoder`` follows. The masked LM stays
at the root, so that tools which know nothing of queries load it still (and encode both sides as documents).
"""

from __future__ import annotations

import copy
import json
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .._utils.checks import warn
from .._utils.files import UNFINISHED, expand, filled
from ..heads.checkpoint import no_weight_bars
from ..heads.hub_files import Module, find_file, folder_of, modules_of, read_json, save_tokenizer
from ..heads.provenance import PROVENANCE
from .description import Description, QuerySide
from .model_card import CARD_FILE, card

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

# Fields by the names that folders give them: SpladePooling's, ours, and those of SPARSEUP (Linkup, 2026).
_POOLING = {"pooling_strategy": "pooling", "activation_function": "activation"}
_FIELDS = {**_POOLING, "position_top_k": "position_top_k", "shift": "shift", "logit_shift": "shift", "fold": "fold",
           "vocab_fold": "fold", "special_positions": "special_positions"}  # fmt: skip
_FOLDS = {"case_space": "case", "none": None}
_OF_THE_MODEL = ("position_top_k", "logit_shift", "vocab_fold")  # SPARSEUP's own code reads config.json, too
_HARMLESS = {"embedding_dimension", "word_embedding_dimension", "chunk_size"}
_MODELS = ("MLMTransformer", "Transformer")
_PROMPTS = ("query", "document", "passage", "corpus")
_NO_LIMIT = 1_000_000  # a tokenizer's length from which it says that there is none

# What is written: names that sentence-transformers 5.0 and later resolve.
_SPARSE = "sentence_transformers.sparse_encoder.models"
_TYPES = {kind: f"{_SPARSE}.{kind}" for kind in ("MLMTransformer", "SpladePooling", "SparseStaticEmbedding")}
_TYPES["Router"] = "sentence_transformers.models.Router"
_MARK = "modules.json"
_DOCUMENTS = {".": "MLMTransformer", "1_SpladePooling": "SpladePooling"}
# Weights as transformers names them, whole or in shards: older ones beside new ones would be loaded in their place.
_WEIGHTS = re.compile(r"(model|pytorch_model)(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?")


def describe(model: Any, **given: Any) -> Description:
    """What is given, and what is not (``None``) as the folder or hub name says; of a loaded model the defaults.

    A model that ``rescale`` or a calibration made of an encoder's folder is described by that folder.

    Raises:
        ValueError: if the folder was saved with what Splade does not do (prompts, other modules or settings of them).
        FileNotFoundError: if only a part of it is in the hub's cache.
    """
    place = model if isinstance(model, (str, os.PathLike)) else getattr(model, "encoder_folder", None)
    found = Description() if place is None else _read(place)
    if place not in (None, model) and "shift" in (getattr(model.config, PROVENANCE, None) or {}):
        found = found.replace(shift=None)  # it is stored in the bias
    return found.replace(**{name: value for name, value in given.items() if value is not None})


def _read(name: str | os.PathLike[str]) -> Description:
    modules = modules_of(name)
    if modules is None:
        return _read_plain(name)
    documents, queries = modules["document"], modules["query"]
    if len(documents) != 2 or documents[0].kind not in _MODELS or not _pools(name, documents[1]):
        told = ", ".join(module.type.removeprefix("sentence_transformers.") for module in documents)
        raise ValueError(
            f"{str(name)!r} is no masked LM with sentence-transformers' SpladePooling: its documents go through "
            f"{told}. Load it with sentence-transformers, which runs these modules"
        )
    body, config = documents[0].path, read_json(name, "config_sentence_transformers.json") or {}
    prompts = config.get("prompts") or {}
    used = {key: prompts[key] for key in (*_PROMPTS, config.get("default_prompt_name")) if prompts.get(key)}
    if used:
        raise _refusal(name, f"prompts={used!r}; put them into the texts yourself")
    if config.get("max_active_dims") is not None:
        raise _refusal(name, f"max_active_dims={config['max_active_dims']}")
    fields = {**_of_model(name, body), **_pooling(name, documents[1]), **_fields(config)}
    lengths = _lengths(name, body)
    side = QuerySide(max_length=lengths["query"])
    if queries != documents:
        side = _queries(name, queries, documents, lengths, config)
    return Description(**fields, max_length=lengths["document"], lowercase=lengths["lowercase"], queries=side)


def _queries(
    name: Any, queries: list[Module], documents: list[Module], lengths: dict[str, Any], config: dict[str, Any]
) -> QuerySide:
    """What the router says of queries."""
    kinds = [module.kind for module in queries]
    pooled = len(kinds) > 1 and kinds[0] in _MODELS and _pools(name, queries[1])
    if not (kinds == ["SparseStaticEmbedding"] or pooled and kinds[2:] in ([], ["SparseStaticEmbedding"])):
        raise _refusal(name, f"queries go through {kinds}, which is neither a masked LM and SpladePooling nor static")
    side: dict[str, Any] = {"max_length": lengths["query"]}
    if kinds[-1] == "SparseStaticEmbedding":
        side["weights"] = _static_weights(name, queries[-1].path)
    if not pooled:
        side["max_length"] = _tokenizer_length(name, queries[0].path)
        if config.get("static_tokenizer") != "documents":
            side["tokenizer"] = folder_of(name, queries[0].path)
        return QuerySide(**side)
    own, of_documents = _pooling(name, queries[1]), _pooling(name, documents[1])
    side |= {key: own.pop(key) for key in _POOLING.values() if key in own}
    if own != {key: value for key, value in of_documents.items() if key not in side}:
        raise _refusal(name, f"queries have other options ({own}) than documents")
    if queries[0].path != documents[0].path:
        theirs = _lengths(name, queries[0].path)
        if theirs["lowercase"] != lengths["lowercase"]:
            raise _refusal(name, f"do_lower_case={theirs['lowercase']} for queries alone")
        folder = folder_of(name, queries[0].path)
        length = theirs["query"] or _tokenizer_length(name, queries[0].path)
        side |= {"model": folder, "tokenizer": folder, "max_length": length}
    return QuerySide(**side, times_model=len(kinds) == 3)


def _pools(name: Any, module: Module) -> bool:
    """Whether a module is sentence-transformers' SpladePooling, or one whose settings say what it does beside."""
    if module.kind == "SpladePooling":
        return module.type.startswith("sentence_transformers.")
    config = read_json(name, f"{module.path}/config.json") or {}
    return module.kind.endswith("SpladePooling") and bool((_FIELDS.keys() - _POOLING.keys()) & config.keys())


def _pooling(name: Any, module: Module) -> dict[str, Any]:
    config = read_json(name, f"{module.path}/config.json") or {}
    for key, value in config.items():
        if key not in (*_FIELDS, *_HARMLESS) and value not in (None, False):
            raise _refusal(name, f"{key}={value!r} ({module.path})")
    return _fields(config)


def _of_model(name: Any, body: str) -> dict[str, Any]:
    """The options that the model's own configuration names; a shift that we stored in its bias is done."""
    config = read_json(name, f"{body}/config.json".lstrip("/")) or {}
    if "shift" in config.get(PROVENANCE, {}):
        config.pop("logit_shift", None)
    return _fields({key: config[key] for key in _OF_THE_MODEL if key in config})


def _fields(config: dict[str, Any]) -> dict[str, Any]:
    """Our fields, of the entries of a configuration that name them."""
    values = {ours: config[key] for key, ours in _FIELDS.items() if config.get(key) is not None}
    return {key: _FOLDS.get(value, value) if key == "fold" else value for key, value in values.items()}


def _lengths(name: Any, body: str) -> dict[str, Any]:
    """Tokens per document and per query, ``None`` where nothing is said, and whether texts are lower-cased."""
    config = read_json(name, f"{body}/sentence_bert_config.json".lstrip("/")) or {}
    for key in ("processing_kwargs", "query_expansion"):
        if config.get(key):
            raise _refusal(name, f"{key}={config[key]!r}")
    document = config.get("document_length") or config.get("max_seq_length")
    query = config.get("query_length") or config.get("max_seq_length")
    if query is None and document is not None:
        query = _tokenizer_length(name, body)
    return {"document": document, "query": query, "lowercase": bool(config.get("do_lower_case"))}


def _tokenizer_length(name: Any, path: str) -> int | None:
    length = (read_json(name, f"{path}/tokenizer_config.json".lstrip("/")) or {}).get("model_max_length")
    return length if isinstance(length, int) and length < _NO_LIMIT else None


def _static_weights(name: Any, path: str) -> np.ndarray:
    """The weights of a SparseStaticEmbedding, (tokens of its tokenizer,)."""
    from safetensors.numpy import load_file

    file = find_file(name, f"{path}/model.safetensors")
    if file is None:
        import torch

        old = find_file(name, f"{path}/pytorch_model.bin")
        if not old:
            raise _refusal(name, f"weights of queries that are not in {path}/model.safetensors")
        return torch.load(old, weights_only=True)["weight"].float().numpy()
    return load_file(file)["weight"].astype(np.float32)


def _read_plain(name: Any) -> Description:
    """Of a folder without modules; one that is half saved, or whose queries other tools' files tell of, is refused."""
    if (expand(name) / UNFINISHED).exists():
        raise ValueError(
            f"{str(name)!r} is no whole encoder: modules.json, which is written last, is not there: a save was cut "
            "off, or training is under way there or was. Save it again, or go on with train(..., resume=True)"
        )
    if find_file(name, "idf.json") or (read_json(name, "model_args.json") or {}).get("splade_doc"):
        why = "queries of their own weights (idf.json, or splade_doc in model_args.json), and no modules.json says how"
        raise _refusal(name, why)
    if (read_json(name, "config.json") or {}).get(PROVENANCE, {}).get("of_encoder"):
        warn(
            f"{str(name)!r} was made of an encoder and saved without that encoder's pooling, lengths and queries, "
            "which are the defaults now: save it by Splade(model).save_pretrained"
        )
    return Description(**_of_model(name, ""))


def _refusal(name: Any, setting: str) -> ValueError:
    return ValueError(
        f"{str(name)!r} was saved with a setting that Splade does not follow: {setting}. To encode without it, give "
        "the loaded model: Splade(AutoModelForMaskedLM.from_pretrained(...), tokenizer=...)"
    )


def save_encoder(
    path: str | Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, description: Description
) -> None:
    """Save model, tokenizer and description so that stock tools compute the same vectors.

    ``modules.json`` comes last: with it the folder is whole. Without a ``max_length`` the tokenizer's is kept. A model
    card is written where there is none.
    """
    if (expand(path) / "onnx").exists():
        raise FileExistsError(f"{str(path)!r} holds ONNX graphs of another encoder: choose another folder")
    side, length = description.queries, description.max_length
    pooling = {key: getattr(description, ours) for key, ours in _POOLING.items()}
    with filled(path, _MARK, lambda name: bool(_WEIGHTS.fullmatch(name))) as stage:
        _save_body(stage, model, tokenizer, length, side.max_length if side.model is None else None)
        _write(stage / "1_SpladePooling" / "config.json", pooling)
        config: dict[str, Any] = {"model_type": "SparseEncoder", "prompts": {}, "default_prompt_name": None,
                                  "similarity_fn_name": "dot"}  # fmt: skip
        options = {"position_top_k", "fold", "special_positions"}  # read by Splade alone
        config |= {key: value for key, value in description.changed().items() if key in options}
        modules = list(_DOCUMENTS.items())
        if not side.alike:
            modules = [(".", "Router")]
            _save_queries(stage, tokenizer, description, pooling)
            if side.weights is not None and side.tokenizer is None:
                config["static_tokenizer"] = "documents"
        _write(stage / "config_sentence_transformers.json", config)
        if not (expand(path) / CARD_FILE).exists():
            (stage / CARD_FILE).write_text(card(model, description), encoding="utf-8")
        listed = [
            {"idx": place, "name": str(place), "path": path.removeprefix("."), "type": _TYPES[kind]}
            for place, (path, kind) in enumerate(modules)
        ]
        _write(stage / _MARK, listed)


def _save_queries(
    stage: Path, tokenizer: PreTrainedTokenizerBase, description: Description, pooling: dict[str, str]
) -> None:
    """The Router's configuration and its query modules; "." is the masked LM at the root."""
    side, route = description.queries, {}
    if side.model is not None:
        route["query_0_MLMTransformer"] = "MLMTransformer"
        _save_body(stage / "query_0_MLMTransformer", side.model, side.tokenizer, side.max_length, None)
    elif side.weights is None or side.times_model:
        route["."] = "MLMTransformer"
    if route:
        route["query_1_SpladePooling"] = "SpladePooling"
        own = {key: getattr(side, ours) or pooling[key] for key, ours in _POOLING.items()}
        _write(stage / "query_1_SpladePooling" / "config.json", own)
    if side.weights is not None:
        import torch
        from safetensors.torch import save_file

        name = f"query_{len(route)}_SparseStaticEmbedding"
        route[name] = "SparseStaticEmbedding"
        # SparseStaticEmbedding takes as many weights as its tokenizer has tokens: name the head's padding rows
        tokenizer = copy.deepcopy(side.tokenizer or tokenizer)
        if side.tokenizer is None:
            tokenizer.add_tokens([f"[row {i}]" for i in range(len(tokenizer.get_vocab()), len(side.weights))])
        weights = np.ascontiguousarray(side.weights[: len(tokenizer.get_vocab())])
        save_tokenizer(stage / name, tokenizer, side.max_length or description.max_length)
        save_file({"weight": torch.from_numpy(weights)}, stage / name / "model.safetensors")
        _write(stage / name / "config.json", {"frozen": False})
    _write(
        stage / "router_config.json",
        {
            "types": {key: _TYPES[kind] for key, kind in {**_DOCUMENTS, **route}.items()},
            "structure": {"query": list(route), "document": list(_DOCUMENTS)},
            "parameters": {"default_route": "document", "allow_empty_key": True, "route_mappings": {}},
        },
    )


def _save_body(path: Path, model: Any, tokenizer: Any, length: int | None, query_length: int | None) -> None:
    with no_weight_bars():
        model.save_pretrained(path)
    save_tokenizer(path, tokenizer, length)
    config = {"max_seq_length": length, "do_lower_case": False}  # the tokenizer does it
    _write(path / "sentence_bert_config.json", config | ({"query_length": query_length} if query_length else {}))


def _write(path: Path, content: Any) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
