"""Load a masked LM and its tokenizer from a hub name, a folder, or an object; every failure names its cause."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._utils.paths import expand

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


def load_backbone(
    model: str | os.PathLike[str] | PreTrainedModel,
    tokenizer: Any = None,
    *,
    dtype: Any = None,
    need_tokenizer: bool = True,
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase | None]:
    """Return a masked LM and its tokenizer.

    Args:
        model: a hub name, a folder, or a loaded ``PreTrainedModel`` (returned as it is).
        tokenizer: a tokenizer, or its name or folder; default: the model's own.
        dtype: torch dtype (or its name) of the weights; default: float32.
        need_tokenizer: if false, no tokenizer is loaded where none is given.

    Raises:
        FileNotFoundError: if the folder does not exist or a hub name cannot be reached.
        TypeError: if ``model`` is of another type or holds no masked-LM head.
        ValueError: if no tokenizer is found, or weights of the head are missing.
    """
    from transformers import PreTrainedModel

    if isinstance(model, PreTrainedModel):
        if tokenizer is None and need_tokenizer:
            tokenizer = model.config.name_or_path or None
            if tokenizer is None:
                raise ValueError("tokenizer must be given where model is a loaded PreTrainedModel without a name")
        loaded = model
    elif isinstance(model, (str, os.PathLike)):
        name = _expanded(model)
        loaded = _load_model(name, dtype)
        if tokenizer is None and need_tokenizer:
            tokenizer = name
    else:
        raise TypeError(f"model must be a hub name, a folder or a PreTrainedModel, got {type(model).__name__}")
    if isinstance(tokenizer, (str, os.PathLike)):
        tokenizer = load_tokenizer(os.fspath(tokenizer))
    from .decoder import find_head
    from .provenance import provenance
    from .ties import keep_dead_bias_in_step

    if provenance(loaded) and not loaded.config.tie_word_embeddings:
        try:
            keep_dead_bias_in_step(loaded)
        except (TypeError, ValueError):
            pass  # a head that find_head refuses has no second bias of ours to keep
    elif loaded.get_output_embeddings() is None:
        find_head(loaded)  # raises, naming the class
    return loaded, tokenizer


@contextmanager
def no_weight_bars() -> Iterator[None]:
    """Silence transformers' bars over weights and shards, which last milliseconds and bury our own."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def check_source(name: str, what: str) -> None:
    """Tell a missing folder from a hub name before transformers' long message does."""
    if not name:
        raise ValueError(f"{what} must be a hub name or a folder, got an empty string")
    path = expand(name)
    looks_local = path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1
    if looks_local and not path.exists():
        raise FileNotFoundError(f"{what} folder {name!r} does not exist")
    if path.is_dir() and what == "model" and not (path / "config.json").exists():
        raise FileNotFoundError(f"model folder {name!r} has no config.json: it is not a saved transformers model")


def _expanded(name: str | os.PathLike[str]) -> str:
    """A name or folder; in the latter ``~`` is the home folder, which transformers does not know."""
    name = os.fspath(name)
    return str(expand(name)) if name.startswith("~") else name


def unreachable(name: str, error: Exception) -> OSError:
    """What to raise where transformers finds neither a folder nor a hub, or may not read what is there."""
    folder = expand(name)
    if folder.is_dir():
        closed = [file.name for file in folder.iterdir() if file.is_file() and not os.access(file, os.R_OK)]
        if closed or not os.access(folder, os.R_OK | os.X_OK):
            return PermissionError(f"{', '.join(closed) or name} in {name!r} may not be read by this user")
        return FileNotFoundError(f"folder {name!r} cannot be loaded: {str(error).splitlines()[0]}")
    return FileNotFoundError(
        f"{name!r} is neither a folder here nor a model that could be loaded from the hub "
        f"(no network, or no such name): {str(error).splitlines()[0]}"
    )


def _load_model(name: str, dtype: Any) -> PreTrainedModel:
    from pickle import UnpicklingError

    import torch
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForMaskedLM

    check_source(name, "model")
    if isinstance(dtype, str):
        dtype = getattr(torch, dtype, None)
        if not isinstance(dtype, torch.dtype):
            raise ValueError("dtype must be a torch floating dtype or its name, e.g. 'bfloat16'")
    try:
        config = AutoConfig.from_pretrained(name, trust_remote_code=False)
    except OSError as error:
        raise unreachable(name, error) from error
    try:
        with no_weight_bars():
            model, info = AutoModelForMaskedLM.from_pretrained(
                name, config=config, dtype=dtype or torch.float32, output_loading_info=True, trust_remote_code=False
            )
    except OSError as error:
        raise unreachable(name, error) from error
    except ValueError as error:
        if "Unrecognized configuration class" in str(error):
            architecture = (config.architectures or [type(config).__name__])[0]
            raise TypeError(f"{name!r} holds a {architecture}, which has no masked-LM head") from error
        raise
    except (SafetensorError, UnpicklingError, EOFError, RuntimeError) as error:
        reason = f"{type(error).__name__}: {(str(error) or 'no more data').splitlines()[0]:.160}"
        raise ValueError(
            f"the weights of {name!r} cannot be read ({reason}): a file is damaged, cut short, or no checkpoint "
            "at all; fetch or save it again"
        ) from error
    missing = sorted(info["missing_keys"])
    if missing:
        architecture = (config.architectures or [type(config).__name__])[0]
        raise TypeError(
            f"{name!r} holds a {architecture} without a whole masked-LM head: "
            f"{', '.join(missing[:3])}{' ...' if len(missing) > 3 else ''} would be random"
        )
    return model.eval()


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """A tokenizer by hub name or folder; a folder without one is told so."""
    from transformers import AutoTokenizer

    check_source(name, "tokenizer")
    name = _expanded(name)
    folder = Path(name)
    if folder.is_dir() and not any(
        (folder / file).exists()
        for file in ("tokenizer.json", "vocab.txt", "vocab.json", "tokenizer.model", "spiece.model",
                     "sentencepiece.bpe.model", "tokenizer_config.json")
    ):
        raise ValueError(f"no tokenizer in {name!r}: save one there, or pass tokenizer=")
    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except OSError as error:
        raise unreachable(name, error) from error
    except Exception as error:  # of tokenizers, json, sentencepiece: none names the file
        if isinstance(error, (ValueError, ImportError)) and not isinstance(error, json.JSONDecodeError):
            raise
        raise ValueError(f"the tokenizer of {name!r} cannot be read, damaged or cut off? ({error})") from error
