"""``train``: from a backbone and pairs of texts to a SPLADE encoder in the standard layout."""

from __future__ import annotations

import dataclasses
import inspect
import json
import os
import shutil
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._utils.durable import write_whole
from .._utils.filling import remove_half_saved, unmark
from .._utils.memory import keep_freed_memory, return_freed_memory
from .._utils.paths import expand
from .._utils.signals import python_signals
from ..encoding.saved_folder import describe, save_encoder
from .config import CONFIG_FILE, TrainConfig
from .distributed import barrier, join, on_cpu, world
from .inputs import AUDITS_FILE, INPUTS_FILE, Origin, check_inputs, describe_inputs

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from ..splade import Splade
    from .data.rows import Rows
    from .dev_evaluation import DevWatch
    from .model import SparseHead

#: Name of the log in the output folder.
LOG_FILE = "monitor.csv"
_CHECKPOINTS = "checkpoints"
# Bytes of all layers' hidden states of a batch of documents; what waits for the backward pass is some 20 times that.
_SMALL_STATES = 12 << 20


def train(
    backbone: str | os.PathLike[str] | PreTrainedModel,
    data: Any,
    output_dir: str | os.PathLike[str],
    *,
    tokenizer: PreTrainedTokenizerBase | str | None = None,
    texts: Any = None,
    config: TrainConfig | None = None,
    dev: Any = None,
    resume: bool = False,
    overwrite: bool = False,
    verbose: bool = True,
    **options: Any,
) -> Splade:
    """Train a SPLADE encoder (arXiv:2109.10086) on pairs of texts, its head rescaled first (arXiv:2606.18811).

    Example:
        >>> splade = train("answerdotai/ModernBERT-base", load_collection("docstrings"), "my-splade", rescale=16.0)

    Args:
        backbone: a hub name, a folder, or a loaded masked LM (which is left as it is: a copy of it is trained).
        data: a collection with ``train_pairs()``; an iterable of ``(query, positive[, negative, ...][, scores])``; a
            frame or Hugging Face Dataset with columns ``query``, ``positive``, ``negative*``, ``scores``; or a file.
        output_dir: folder of the encoder (loads in ``Splade``, ``SparseEncoder``, ``AutoModelForMaskedLM``), of
            ``monitor.csv`` and of ``train_config.json``.
        tokenizer: default: the backbone's.
        texts: where the texts stand, if the data are ids: a collection, or ``(documents, topics)``; see
            :class:`~pyterrier_rescale.training.data.ids.IdRows`.
        config: options as an object, e.g. read from a file by ``TrainConfig.from_json``; keyword options win.
        dev: a collection with a dev split, or ``(documents, topics, qrels)``: nDCG@10 is measured every ``eval_steps``
            (default 100) by exact scores, written to ``dev.csv``, and the best state is what is saved.
        resume: go on from the last checkpoint in ``output_dir``, or return its encoder if it is finished; from the
            start where there is none. Backbone, tokenizer, data, dev and options must be those that it was begun with.
        overwrite: start anew where ``output_dir`` holds a run already.
        verbose: show a progress bar.
        **options: see below; all are plain values.

    The options, with their defaults (an encoder's folder as ``backbone`` keeps the ``pooling``, ``position_top_k`` and
    ``fold`` that it was saved with, unless they are given here or by ``config``):

    - ``rescale=16.0``: None, a number (W <- W / k), ``"auto"`` (k measured on the training documents),
      ``"calibrated"`` (k and per-term offset measured) or ``"learned"`` (k is trained, too).
    - ``shift=None``: weights are log(1 + relu(x - shift)), a number or one for each term (SPARSEUP, Linkup 2026: 15),
      applied to the logits of the rescaled head; stored in its bias, so that every tool follows it.
    - ``position_top_k=None``: of each position only so many logits, the largest, take part in pooling (SPARSEUP: 12);
      ``fold=None``, or ``"case"``: variants of a term in case and word start are one, whose weight is the largest of
      theirs. ``Splade`` follows the saved folder in both, other tools do not know them.
    - ``loss="infonce"``: or ``"margin_mse"``, ``"kl"`` (both need teacher scores); ``temperature=1.0``.
    - ``batch_size=32`` queries per step (and process), ``gradient_accumulation=1`` such batches per update,
      ``mini_batch_size=None``: texts in memory at a time (GradCache), for large batches.
    - ``activations="auto"``: what is kept for the backward pass: ``"all"``, ``"products"`` (of matrices; the rest is
      computed again), ``"inputs"`` (of layers, which run again), or the first of these that the free memory holds.
      All give the same numbers.
    - ``learning_rate=2e-5``, ``warmup_steps=None`` (a tenth of the steps), then linear decay; ``weight_decay=0.01``,
      ``max_grad_norm=1.0`` (0: no clipping), ``scale_learning_rate=1e-2`` of a learned k, ``bias_learning_rate=None``
      of the head's output bias (None: like all; 0: it stays).
    - ``max_steps=None`` updates, or ``epochs=1``.
    - ``lambda_q=5e-4``, ``lambda_d=3e-4``: weight of the regulariser for queries and documents, reached after
      ``ramp_steps=1000`` updates whatever the length of the run (``ramp="quadratic"`` or ``"linear"``).
    - ``regularizer="flops"`` (``query_regularizer=None``: the same): see
      :mod:`~pyterrier_rescale.training.regularizers`.
    - ``max_length=256``, ``query_max_length=None`` (the same): tokens (of the saved folder ``SparseEncoder`` knows the
      documents' alone, ``Splade`` both); ``pooling="max"`` or ``"sum"``,
      ``query_pooling=None`` (the same); ``lowercase=False``.
    - ``queries="model"``, or ``"static"``: inference-free queries, whose terms are their tokens, with trained weights
      that start from the documents' IDF and have ``static_learning_rate=1e-3``. ``lambda_q`` is of no use then.
    - ``negatives=None``: hard negatives used per query (default: as many as every row has);
      ``mine_negatives=0``: so many more found by BM25 (Terrier) among the documents of the data.
    - ``seed=0``; ``bf16=False``; ``device=None``.
    - ``monitor=True``: stop a collapsed run with a diagnosis; ``"warn"``: only warn; ``False``: never mind. A step
      whose loss or gradient is not finite is never made, and weights that are not finite are never saved.
      ``log_steps=1``, ``save_steps=500`` (0: no checkpoints), ``report_to=None`` (``"tensorboard"``, ``"wandb"``).

    Returns:
        The trained encoder, loaded from ``output_dir``.

    Raises:
        ValueError, TypeError, FileNotFoundError: before the first step, for options, data or a backbone that cannot
            serve.
        FileExistsError: if ``output_dir`` holds a run, and neither ``resume`` nor ``overwrite`` is set.
        CollapseError: if the run collapses (``monitor=True``), or its weights are not finite; ``monitor.csv`` holds it
            up to the last step.
    """
    config = TrainConfig.from_dict({**(config.to_dict() if config is not None else saved_options(backbone)), **options})
    config.check_dev(dev)
    join(cpu=on_cpu(config.device))
    from ..splade import Splade
    from .data.loading import check_rows, load_rows

    folder = prepare_output(output_dir, config, resume, overwrite)
    begun = resume and (folder / CONFIG_FILE).exists()
    finished = begun and (folder / "modules.json").exists()
    rows = given = load_rows(data, texts)
    if not finished:
        if config.mine_negatives:
            from .negatives import mine_negatives

            rows = mine_negatives(rows, config.mine_negatives, seed=config.seed, verbose=verbose)
        negatives = check_rows(rows, config)

    from .callbacks import latest
    from .dev_evaluation import DevSet, DevWatch
    from .initialization import starting_model, starting_queries, trainable
    from .model_card import measure_head, write_card

    model, loaded_tokenizer = starting_model(backbone, tokenizer, config)
    dev_set = DevSet(dev) if dev is not None else None
    origin = Origin(backbone, data, texts=texts, tokenizer=tokenizer, dev=dev)
    inputs = describe_inputs(origin, model, loaded_tokenizer, given, dev_set)
    if begun:
        check_inputs(folder, inputs, finished=finished)
    if finished:
        return Splade(folder, device=config.device)

    _check_report(config.report_to)
    main = world()[0] == 0
    start = starting_queries(model, loaded_tokenizer, rows, config)
    before = measure_head(model, loaded_tokenizer, rows, config, start) if main else None
    module = trainable(model, loaded_tokenizer, rows, config)
    barrier()  # all have looked at the folder before one of them changes it
    if main:
        remove_half_saved(folder)
        if not begun:
            # what an earlier run left, first of all the mark of a whole encoder
            unmark(folder, "modules.json")
            for name in (CONFIG_FILE, INPUTS_FILE, AUDITS_FILE, LOG_FILE, "dev.csv"):
                (folder / name).unlink(missing_ok=True)
            shutil.rmtree(folder / _CHECKPOINTS, ignore_errors=True)
            write_whole(folder / INPUTS_FILE, json.dumps(inputs, indent=2) + "\n")
        config.to_json(folder / CONFIG_FILE)  # after the inputs: with it the run is begun
        latest(folder / _CHECKPOINTS)  # removes broken ones
    barrier()
    watch = DevWatch(dev_set, config, folder) if dev_set is not None else None
    _run(module, rows, negatives, config, folder, watch, verbose)
    best = watch.best.state() if watch is not None else None
    if best is not None:
        module.load_state_dict(best)
    if main:
        model = module.fold()
        description = module.described()
        audits = before, measure_head(model, module.tokenizer, rows, config, description)
        write_card(folder, origin, model, rows, config, folder / LOG_FILE, audits, module.kept)
        save_encoder(folder, model, module.tokenizer, description)
        shutil.rmtree(folder / _CHECKPOINTS, ignore_errors=True)
    barrier()
    return Splade(folder, device=config.device)


def prepare_output(output_dir: str | os.PathLike[str], config: TrainConfig, resume: bool, overwrite: bool) -> Path:
    """Create the output folder, or find in it the run to go on with.

    Raises:
        OSError: if the folder cannot be written.
        FileExistsError: if it holds another encoder or run that would be lost.
        ValueError: if it is to be resumed with other options.
    """
    path = expand(output_dir)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(f"output_dir must be a folder, {str(path)!r} is a file")
    begun = (path / CONFIG_FILE).exists()
    if resume and begun:
        differences = config.differences(TrainConfig.from_json(path / CONFIG_FILE))
        if differences:
            raise ValueError(
                f"{str(path)!r} was begun with other options, so it cannot be resumed with {'; '.join(differences)}"
            )
    elif not overwrite and (begun or (path / "modules.json").exists()):
        going_on = "resume=True goes on with it, " if begun else ""
        raise FileExistsError(
            f"output_dir {str(path)!r} holds {'a training run' if begun else 'an encoder'} already: {going_on}"
            "overwrite=True starts anew, or choose another folder"
        )
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / ".write_probe"
        probe.write_text("", encoding="utf-8")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise type(error)(f"output_dir {str(path)!r} cannot be written: {error}") from error
    return path


def _check_report(report_to: str | None) -> None:
    """Raise ``ValueError`` where the trainer would find no such tracker, when the folder has been changed already."""
    from transformers.integrations import get_reporting_integration_callbacks

    try:
        for tracker in get_reporting_integration_callbacks([report_to] if report_to else []):
            tracker()
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"report_to={report_to!r} cannot be used: {error}") from error


def _run(
    module: SparseHead, rows: Rows, negatives: int, config: TrainConfig, folder: Path, watch: DevWatch | None,
    verbose: bool,
) -> None:  # fmt: skip
    """The loop itself; the module is trained in place."""
    from .callbacks import Bookkeeper, whole_checkpoints
    from .memory_plan import choose
    from .trainer import Collator, Encoder, Trainer

    python_signals()
    collator = Collator(
        rows,
        module,
        negatives=negatives,
        max_length=config.max_length,
        query_max_length=config.query_max_length or config.max_length,
    )
    bookkeeper = Bookkeeper(config, module, folder / LOG_FILE, watch=watch, verbose=verbose)
    checkpoint = next(reversed(whole_checkpoints(folder / _CHECKPOINTS)), None)
    encoder = Encoder(modules=[module], device=config.device)
    trainer = Trainer(encoder, config, rows, collator, str(folder / _CHECKPOINTS), [bookkeeper])
    bookkeeper.parts = trainer.objective.parts
    # gradients, two averages of AdamW, and the best state on a dev split
    module.kept = choose(module, rows, negatives, config, copies=3 if watch is None else 4)
    if config.report_to:
        bookkeeper.report = trainer.log
    trainer.objective.ramp.warn_if_short(config.query_lambda, config.lambda_d)
    try:
        with _malloc_for(module, config):
            trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
            trainer.optimizer.state.clear()  # which the trainer would keep, as it is in reference cycles
            module.zero_grad()
    finally:
        bookkeeper.close()
    module.eval()


def _malloc_for(module: SparseHead, config: TrainConfig) -> AbstractContextManager[bool]:
    """A small model's steps take a third less time on a heap that grows; a large one's activations would not fit it."""
    sizes = module.mlm.config
    width, layers = getattr(sizes, "hidden_size", None), getattr(sizes, "num_hidden_layers", None)
    states = 4 * config.batch_size * config.max_length * (width or 0) * (layers or 0)
    return keep_freed_memory() if 0 < states <= _SMALL_STATES else return_freed_memory()


def _named_signature() -> inspect.Signature:
    """The signature with every option by name and default, as editors, ``help`` and ``inspect`` show it."""
    signature = inspect.signature(train)
    kept = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    options = [
        inspect.Parameter(option.name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=option.type)
        for option in dataclasses.fields(TrainConfig)
    ]
    positional = [p for p in kept if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    keywords = [p for p in kept if p.kind is inspect.Parameter.KEYWORD_ONLY]
    return signature.replace(parameters=[*positional, *options, *keywords])


train.__signature__ = _named_signature()


def saved_options(backbone: Any) -> dict[str, Any]:
    """The options that an encoder's folder keeps when it is trained further."""
    description = describe(backbone)
    options = {name: getattr(description, name) for name in ("pooling", "position_top_k", "fold")}
    return {name: value for name, value in options.items() if value is not None}
