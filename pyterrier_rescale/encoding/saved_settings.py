"""What a SPLADE encoder was saved with, by this package or by sentence-transformers: followed, or refused by name."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

from .._utils.defaults import MAX_POOLING
from .._utils.filling import UNFINISHED
from .._utils.paths import expand
from ..heads.provenance import PROVENANCE
from ..heads.rescaling import check_shift
from .head_options import HeadOptions
from .query_encoder import QuerySide

_MODELS = ("MLMTransformer", "Transformer")
# What the options of the head are called by SPARSEUP (Linkup, 2026), and by us; and what fold may be there.
_SPARSEUP = {"logit_shift": "shift", "position_top_k": "position_top_k", "vocab_fold": "fold"}
_OPTIONS = {**_SPARSEUP, "shift": "shift", "fold": "fold"}
_FOLDS = {"case_space": "case", "none": None}
_POOLING = ("pooling_strategy", "activation_function", "embedding_dimension", "word_embedding_dimension", "chunk_size")
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")


class NotFollowedError(ValueError):
    """An encoder was saved with what Splade does not do."""


def saved_settings(name: str | Path) -> dict[str, Any]:
    """What an encoder was saved with: ``pooling``, ``max_length``, ``lowercase``, ``queries``, ``options``, ``shift``.

    And the ``folder`` of its model, where that is another. A shift that is named is one that its bias does not hold.

    Only what is set is there: nothing for a plain masked LM.

    Args:
        name: a folder or a hub name, whose files are found as transformers finds them.

    Raises:
        ValueError: if it was saved with what Splade does not do (prompts, another activation, other modules or
            settings of them).
    """
    modules = _read(name, "modules.json")
    if modules is None:
        if (expand(name) / UNFINISHED).exists():
            raise ValueError(
                f"{str(name)!r} is no whole encoder: modules.json, which is written last, is not there: a save was cut "
                "off, or training is under way there or was. Save it again, or go on with train(..., resume=True)"
            )
        return _options(name, _of_model(name, ""))
    kinds = [_kind(module.get("type")) for module in modules]
    settings: dict[str, Any] = {}
    if kinds == ["Router"]:
        router = _read(name, "router_config.json") or _read(name, "config.json") or {}
        types, structure = router.get("types", {}), router.get("structure", {})
        routes = {side: structure.get(side, []) for side in ("document", "query")}
        paths = routes["document"]
        kinds = [_kind(types.get(path)) for path in paths]
    else:
        types, routes, paths = {}, None, [module.get("path", "") for module in modules]
    if len(kinds) != 2 or kinds[0] not in _MODELS or not _pools(name, kinds[1], paths[1]):
        raise _refusal(name, f"documents go through {kinds or paths}, not through a masked LM and SpladePooling")
    inside = "" if paths[0] in ("", ".") else f"{paths[0]}/"
    if inside:
        if not expand(name).is_dir():
            raise _refusal(name, f"the masked LM lies in its folder {paths[0]!r}")
        settings["folder"] = str(expand(name) / inside)
    settings["pooling"], options = _pooling(name, paths[1])
    if routes is not None:
        settings |= _queries(name, routes["query"], paths[0], types, options)
    config = _read(name, "config_sentence_transformers.json") or {}
    _check_config(name, config)
    settings |= _options(name, {**_of_model(name, inside), **options, **config})
    if isinstance(config.get("query_max_length"), int):
        side = settings.get("queries", QuerySide())
        settings["queries"] = dataclasses.replace(side, max_length=config["query_max_length"])
    length = _read(name, f"{inside}sentence_bert_config.json") or {}
    settings["lowercase"] = bool(length.get("do_lower_case"))
    for value in (
        length.get("max_seq_length"),
        (_read(name, f"{inside}tokenizer_config.json") or {}).get("model_max_length"),
    ):
        if isinstance(value, int) and value < 1_000_000:
            settings["max_length"] = value
            break
    side = settings.get("queries")
    if side is not None and "query_max_length" not in config and side.max_length == settings.get("max_length"):
        settings["queries"] = dataclasses.replace(side, max_length=None)  # the documents' length, whatever that is
    return settings


def saved_options(name: Any) -> dict[str, Any]:
    """Of what an encoder was saved with: ``pooling``, ``position_top_k``, ``fold``; nothing for a loaded model."""
    saved = _followed(name)
    pooling = {"pooling": saved["pooling"]} if "pooling" in saved else {}
    return pooling | saved.get("options", HeadOptions()).given()


def as_saved(
    model: Any, pooling: str, query_side: QuerySide | None, position_top_k: int | None, fold: str | None
) -> dict[str, Any]:
    """``pooling``, ``query_side`` and ``options`` as given; where left out, as the encoder in a folder was saved."""
    saved = _followed(model)
    given = HeadOptions(position_top_k=position_top_k, fold=fold).given()
    return {
        "pooling": saved.get("pooling", "max") if pooling is MAX_POOLING else pooling,
        "query_side": saved.get("queries") if query_side is None else query_side,
        "options": HeadOptions(**{**saved.get("options", HeadOptions()).given(), **given}),
    }


def _followed(model: Any) -> dict[str, Any]:
    """The settings of a folder or hub name; none for a loaded model, or where its head is all that is of use."""
    if not isinstance(model, (str, os.PathLike)):
        return {}
    try:
        return saved_settings(model)
    except NotFollowedError:
        return {}


def _queries(
    name: str | Path, route: list[str], model: str, types: dict[str, str], options: dict[str, Any]
) -> dict[str, Any]:
    kinds = [_kind(types.get(path)) for path in route]
    if len(route) == 2 and route[0] == model and _pools(name, kinds[1], route[1]):
        pooling, own = _pooling(name, route[1])
        if own != options:
            raise _refusal(name, f"queries have {own or 'no options'}, documents {options or 'none'}")
        return {"queries": QuerySide(pooling=pooling)}
    if kinds == ["SparseStaticEmbedding"]:
        from safetensors.numpy import load_file

        file = _find(name, f"{route[0]}/model.safetensors")
        length = (_read(name, f"{route[0]}/tokenizer_config.json") or {}).get("model_max_length")
        if file is not None and not (_read(name, f"{route[0]}/config.json") or {}).get("path"):
            length = length if isinstance(length, int) and length < 1_000_000 else None
            return {"queries": QuerySide(weights=load_file(file)["weight"], max_length=length)}
    raise NotFollowedError(
        f"{str(name)!r} sends queries through {route}, which Splade cannot follow: it knows another SpladePooling of "
        "the documents' model, and one SparseStaticEmbedding with its weights in model.safetensors"
    )


def _pools(name: str | Path, kind: str, path: str) -> bool:
    """Whether a module is SpladePooling, or one of its kind whose settings say what it does beside."""
    if kind == "SpladePooling":
        return True
    return kind.endswith("SpladePooling") and bool(_OPTIONS.keys() & (_read(name, f"{path}/config.json") or {}).keys())


def _pooling(name: str | Path, path: str) -> tuple[str, dict[str, Any]]:
    """The pooling strategy, and the options of the head as they are named there."""
    config = _read(name, f"{path}/config.json") or {}
    for key, value in config.items():
        if key not in _POOLING and key not in _OPTIONS and value not in (None, False):
            raise _refusal(name, f"{key}={value!r} ({path})")
    activation = config.get("activation_function", "relu")
    if activation != "relu":
        raise _refusal(name, f"activation_function={activation!r} ({path}), where Splade has log(1 + relu(.))")
    return config.get("pooling_strategy", "max"), {key: config[key] for key in _OPTIONS if key in config}


def _of_model(name: str | Path, inside: str) -> dict[str, Any]:
    """What the model's own configuration says of them: code beside it that is not run may have followed it."""
    config = _read(name, f"{inside}config.json") or {}
    stored = {"logit_shift"} if "shift" in config.get(PROVENANCE, {}) else set()  # in the bias, by us
    return {key: config[key] for key in _SPARSEUP.keys() - stored if key in config}


def _options(name: str | Path, config: dict[str, Any]) -> dict[str, Any]:
    """``options`` and ``shift``, of the entries of a configuration that name them."""
    values = {ours: config[key] for key, ours in _OPTIONS.items() if config.get(key) not in (None, False)}
    if isinstance(values.get("fold"), str):
        values["fold"] = _FOLDS.get(values["fold"], values["fold"])
    try:
        shift = check_shift(values.pop("shift", None))
        options = HeadOptions(**values)
    except ValueError as error:
        raise _refusal(name, str(error)) from error
    return {"options": options} | ({} if shift is None else {"shift": shift})


def _check_config(name: str | Path, config: dict[str, Any]) -> None:
    prompts = config.get("prompts") or {}
    used = {key: prompts.get(key) for key in ("query", *_DOCUMENT_PROMPTS, config.get("default_prompt_name"))}
    used = {key: prompt for key, prompt in used.items() if prompt}
    if used:
        raise _refusal(name, f"prompts={used!r}; put them into the texts yourself")
    if config.get("max_active_dims") is not None:
        raise _refusal(name, f"max_active_dims={config['max_active_dims']}")


def _refusal(name: str | Path, setting: str) -> NotFollowedError:
    return NotFollowedError(
        f"{str(name)!r} was saved with a setting that Splade does not follow: {setting}. To encode without it, give "
        "the loaded model: Splade(AutoModelForMaskedLM.from_pretrained(...), tokenizer=...)"
    )


def _kind(name: Any) -> str:
    return str(name).rsplit(".", 1)[-1]


def _find(name: str | Path, file: str) -> Path | None:
    folder = expand(name)
    if folder.is_dir():
        return folder / file if (folder / file).is_file() else None
    if folder.is_absolute() or not str(name):
        return None
    from transformers.utils import cached_file

    try:
        found = cached_file(
            str(name), file, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_connection_errors=False,
        )  # fmt: skip
    except (OSError, ValueError):  # no such name: loading the model will say so
        return None
    return None if found is None else Path(found)


def _read(name: str | Path, file: str) -> Any:
    found = _find(name, file)
    if found is None:
        return None
    try:
        return json.loads(found.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{found} is not JSON ({error}): the file is damaged; save or fetch it again") from error
