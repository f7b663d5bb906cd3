"""``train``: from a backbone and pairs of texts to a SPLADE encoder in the standard layout."""

from __future__ import annotations

import dataclasses
import inspect
import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._utils.checks import warn
from .._utils.files import expand, remove_half_saved, unmark
from .._utils.made_from import alone, check_same, claim, occupied, read_record
from ..encoding.description import config_content
from ..encoding.saved_folder import describe, save_encoder
from ..heads.fingerprint import model_fingerprint, settings_fingerprint, tokenizer_fingerprint
from ..splade import Splade
from .config import CONFIG_FILE, TrainConfig, saved_options
from .dev_evaluation import DevSet
from .distributed import barrier, join, world
from .fit import BEST_FILE, CHECKPOINT_FILE, DEV_FILE, fit
from .initialization import starting_description, starting_model, trainable
from .loading import load_rows
from .model_card import AUDITS_FILE, measure_head, write_card
from .monitor import LOG_FILE
from .negatives import load_stage, mine_negatives
from .recipes import with_recipe
from .rows import fitting_rows

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

#: The record in the output folder of what its run is made from.
INPUTS_FILE = "train_inputs.json"
# Written last: with it the encoder is whole.
_MARK = "modules.json"
_MADE = (_MARK, CHECKPOINT_FILE, BEST_FILE, DEV_FILE, LOG_FILE, AUDITS_FILE, CONFIG_FILE)


def train(
    backbone: str | os.PathLike[str] | PreTrainedModel,
    data: Any,
    output_dir: str | os.PathLike[str],
    *,
    tokenizer: PreTrainedTokenizerBase | str | None = None,
    texts: Any = None,
    columns: Sequence[str] | None = None,
    config: TrainConfig | None = None,
    recipe: str | None = None,
    dev: Any = None,
    resume: bool = True,
    overwrite: bool = False,
    verbose: bool = True,
    **options: Any,
) -> Splade:
    """Train a SPLADE encoder (arXiv:2109.10086) on pairs of texts, its head rescaled first (arXiv:2606.18811).

    Repeated, the call continues the run in ``output_dir``, or returns its encoder if it is finished.

    Example:
        >>> splade = train("answerdotai/ModernBERT-base", load_collection("docstrings"), "my-splade", rescale=16.0)

    Args:
        backbone: a hub name, a folder, or a loaded masked LM (which is left as it is: a copy of it is trained).
        data: a collection with ``train_pairs()``; an iterable of ``(query, positive[, negative, ...][, scores])``; a
            frame or Hugging Face Dataset with columns ``query``, ``positive``, ``negative*``, ``scores``; or a file
            (:func:`~pyterrier_rescale.training.loading.load_rows`).
        output_dir: folder of the encoder (which ``SparseEncoder`` loads, too), its log and its model card.
        tokenizer: default: the backbone's.
        texts: where the texts stand, if the data are ids: a collection or its name, or ``(documents, topics)``.
        columns: names of the columns of a data file without a header, e.g. ``("query", "positive", "negative")``.
        config: options as an object; those that are not the defaults count, or all that ``TrainConfig.from_json`` read
            from a file. Keyword options win.
        recipe: options of a published recipe, ``"paper"``, ``"splade-v3"``, ``"opensearch-doc-v3"`` or ``"sparseup"``
            (:mod:`~pyterrier_rescale.training.recipes`); keyword options win.
        dev: a collection with a dev split (or its name), or ``(documents, topics, qrels)``: nDCG@10 is measured every
            ``eval_steps`` (default 100) by exact scores, written to ``dev.csv``, and the best state is what is saved.
        resume: if false, a folder that holds a run is refused.
        overwrite: start anew where ``output_dir`` holds a run already; what the run has written is removed.
        verbose: show a progress bar.
        **options: see below; plain values.

    The options, with their defaults; an encoder's folder as ``backbone`` keeps what it was saved with, its head, too:

    - ``rescale=16.0`` (of an encoder's folder None): None, a number (W <- W / k), ``"auto"`` (k measured on the
      training documents), ``"calibrated"`` (k and an offset per term measured) or ``"learned"`` (k is trained, too).
    - ``shift=None``: is subtracted from the logits of the rescaled head, a number or one per term (SPARSEUP, Linkup
      2026: 15); stored in its bias, so that every tool follows it.
    - ``position_top_k=None``: of each position only so many logits, the largest, are pooled (SPARSEUP: 12);
      ``fold="case"``: variants of a term in case and word start are one;
      ``special_positions=True``: if false, special tokens and the first position are not pooled. Tools other than
      ``Splade`` ignore these.
    - ``activation="relu"``: log(1 + relu(z)), or ``"log1p_relu"``: log(1 + log(1 + relu(z))) (OpenSearch's v3 models);
      ``pooling="max"`` or ``"sum"``; ``query_activation``, ``query_pooling``: of queries, if otherwise.
    - ``attention=None``: of a language model ``"causal"`` or ``"bidirectional"``; else as its configuration says.
    - ``max_length=256`` tokens, ``query_max_length=None`` (the same; only ``Splade`` keeps it); ``lowercase=False``.
    - ``queries="model"``, or ``"static"``: inference-free queries, whose terms are their tokens, with trained weights
      that start from the documents' IDF (``static_learning_rate=1e-3``); ``lambda_q`` is of no use then.
    - ``loss="infonce"``, or ``"margin_mse"``, ``"kl"`` (both need teacher scores), or several, which are added, each
      times its ``loss_weights=None`` (1); ``temperature=1.0``.
    - ``regularizer="flops"``, ``query_regularizer=None`` (the same): see
      :mod:`~pyterrier_rescale.training.regularizers`; their weights ``lambda_q=5e-4`` and ``lambda_d=3e-4`` are reached
      after ``ramp_steps=1000`` updates (``ramp="quadratic"`` or ``"linear"``), however long the run. Documents of at
      most ``flops_threshold=None`` active terms are not penalised (arXiv:2504.14839: 150).
    - ``max_steps=None`` updates, or ``epochs=1``; ``batch_size=32`` queries per step and process,
      ``gradient_accumulation=1`` such batches per update.
    - ``learning_rate=2e-5``, ``warmup_steps=None`` (a tenth of the steps), then linear decay; ``weight_decay=0.01``;
      ``max_grad_norm=1.0`` (0: no clipping); ``scale_learning_rate=1e-2`` of a learned k; ``bias_learning_rate=None``
      of the head's bias (None: ``learning_rate``; 0: it is not trained).
    - ``negatives=None``: hard negatives used per query (as many as every row has); ``mine_negatives=0``: how many to
      add to each row, found among the documents of the data by ``retriever="bm25"`` or an encoder's name or folder;
      ``negative_margin=None``: drops false negatives, which the teacher scores above the positive's score minus it.
    - ``min_label=1``: pairs with a label below it are left out.
    - ``lora_rank=None``: only low-rank updates of the body's linear layers are trained, by ``peft``, and merged at the
      end; ``learning_rate=1e-4`` or so suits them.
    - ``bf16=False``; to save memory ``mini_batch_size=None`` texts at a time (GradCache) and
      ``gradient_checkpointing=False`` (layers run again in the backward pass), which give the same numbers.
    - ``monitor=True``: a collapsed run stops with a diagnosis; ``"warn"``: only warn; ``False``: never mind. A step
      whose loss or gradient is not finite is never made.
    - ``log_steps=1``, ``save_steps=500`` (0: no checkpoints), ``report_to=None`` (a tracker of accelerate, such as
      ``"tensorboard"``), ``seed=0``, ``device=None``.

    Returns:
        The trained encoder, loaded from ``output_dir``.

    Raises:
        ValueError, TypeError, FileNotFoundError: for options, data or a backbone that cannot serve (the folder is not
            touched then); if the run in ``output_dir`` was made from other inputs, naming them.
        FileExistsError: if ``output_dir`` is not empty and holds no run; with ``resume=False`` also where it holds one.
        RuntimeError: if another process trains in ``output_dir``.
        CollapseError: if the run collapses (``monitor=True``), or its weights are not finite.
    """
    # read
    saved = saved_options(backbone)
    given = ({} if config is None else config.asked()) | with_recipe({**options, "recipe": recipe})
    if "rescale" in saved and "rescale" not in given:
        warn(f"{str(backbone)!r} is an encoder: its head is kept as it is (rescale=None). rescale=16.0 divides it")
    config = TrainConfig.from_dict(saved | given)
    config.check_dev(dev)
    folder, device = expand(output_dir), join(config.device)
    _check_folder(folder, backbone, resume or overwrite)
    rows = load_rows(data, texts, columns=columns, min_label=config.min_label)
    dev_set = None if dev is None else DevSet(dev)
    model, tokenizer_used = starting_model(backbone, tokenizer, config)
    static = describe(backbone).queries.weights
    made_from = config.deciding | {
        "backbone": settings_fingerprint(
            [model_fingerprint(model), config_content(model), [] if static is None else static.tolist()]
        ),
        "tokenizer": tokenizer_fingerprint(tokenizer_used),
        "data": rows.fingerprint,
        "dev": None if dev_set is None else dev_set.fingerprint,
    }
    if config.mine_negatives:
        retriever, made_from["retriever"] = load_stage(config.retriever)
    begun = None if overwrite else read_record(folder, INPUTS_FILE)
    if begun is not None:
        check_same(folder, begun, made_from)
        if (folder / _MARK).exists():
            return Splade(folder, device=config.device)

    # prepare
    if config.mine_negatives:
        rows = mine_negatives(rows, config.mine_negatives, retriever=retriever, seed=config.seed, verbose=verbose)
    rows, negatives = fitting_rows(rows, config)
    description = starting_description(backbone, model, tokenizer_used, rows, config)
    before = measure_head(model, tokenizer_used, rows, config, description)
    module = trainable(model, tokenizer_used, rows, config, description)
    main = world()[0] == 0
    barrier()  # all have looked at the folder before one of them changes it
    with alone(folder) if main else nullcontext():
        if main:
            claim(folder, INPUTS_FILE, made_from, overwrite=overwrite, made=_MADE)
        barrier()
        if (folder / _MARK).exists():  # by another process, meanwhile
            return Splade(folder, device=config.device)
        if main:
            unmark(folder, _MARK)
            remove_half_saved(folder)
            config.to_json(folder / CONFIG_FILE)
        barrier()

        # fit
        step = fit(module, rows, config, folder, device=device, negatives=negatives, dev=dev_set, verbose=verbose)

        # save
        if main:
            trained, description = module.fold(), module.described()
            after = measure_head(trained, tokenizer_used, rows, config, description)
            sources = {"backbone": backbone, "data": data, "texts": texts, "tokenizer": tokenizer, "dev": dev}
            write_card(folder, sources, trained, rows, config, (before, after), step, recipe)
            save_encoder(folder, trained, tokenizer_used, description)
            for name in (CHECKPOINT_FILE, BEST_FILE):
                (folder / name).unlink(missing_ok=True)
        barrier()
    return Splade(folder, device=config.device)


def _check_folder(folder: Path, backbone: Any, begun: bool) -> None:
    """Refuse at once a folder that nothing may be trained into; ``begun``: a run that is there will do."""
    if isinstance(backbone, (str, os.PathLike)) and expand(backbone).resolve() == folder.resolve():
        raise ValueError(f"output_dir {str(folder)!r} is the backbone's folder: choose another one")
    ours = read_record(folder, INPUTS_FILE) is not None
    if not (ours and begun) and (folder.is_file() or occupied(folder)):
        what = "is not empty and holds no training run:"
        if ours:
            what = "holds a training run already: resume=True continues it, overwrite=True starts anew, or"
        raise FileExistsError(f"output_dir {str(folder)!r} {what} choose another folder")


# Every option by name and default, as ``help`` and notebooks show it.
_signature = inspect.signature(train)
_kept = list(_signature.parameters.values())[:-1]
_options = [
    inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=option.type)
    for option in dataclasses.fields(TrainConfig)
]
train.__signature__ = _signature.replace(parameters=[*_kept[:3], *_options, *_kept[3:]])
