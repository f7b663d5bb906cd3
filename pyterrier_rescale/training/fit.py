"""The training loop: batches, forward and backward passes, clipping, AdamW's steps, checkpoints."""

from __future__ import annotations

import math
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch.nn.utils import clip_grad_norm_

from .._utils.checks import warn
from .._utils.files import sync
from .._utils.java import python_signals
from .config import TrainConfig
from .dev_evaluation import MEASURE, DevSet
from .distributed import world
from .losses import Objective, Targets
from .model import SparseHead
from .monitor import Monitor, forget_steps, write_row
from .rows import Row, Rows, text_id

#: Name of the checkpoint in the output folder: the last one, whole; it is removed once the encoder is saved.
CHECKPOINT_FILE = "checkpoint.pt"
#: Name of the best state by ``dev`` so far, removed like it, and of the file of all scores on ``dev``.
BEST_FILE, DEV_FILE = "best.pt", "dev.csv"


def fit(
    module: SparseHead, rows: Rows, config: TrainConfig, folder: Path, *, device: torch.device, negatives: int,
    dev: DevSet | None = None, verbose: bool = True,
) -> int:  # fmt: skip
    """Train a module in place, from the folder's checkpoint on if there is one; the best state on ``dev`` remains.

    Returns the step whose state that is.

    The folder gets ``monitor.csv``, ``dev.csv`` and checkpoints. Raises ``CollapseError`` if the run collapses.
    """
    python_signals()
    module.to(device).train()
    if config.gradient_checkpointing:
        mlm = module.mlm  # transformers' newer name, or the older one
        getattr(mlm, "activation_checkpointing_enable", mlm.gradient_checkpointing_enable)({"use_reentrant": False})
    objective = Objective(config, module.vocab_size).to(device)
    optimizer = make_optimizer(module, config)
    batches = Batches(rows, module, config, negatives)
    accumulation = config.gradient_accumulation
    steps = config.max_steps or max(1, int(config.epochs * len(batches)) // accumulation)
    warmup = math.ceil(0.1 * steps) if config.warmup_steps is None else config.warmup_steps
    ramp = config.ramp_steps if config.lambda_q or config.lambda_d else 0
    for name, value, aim in (("warmup_steps", warmup, "learning_rate"), ("ramp_steps", ramp, "lambda_q or lambda_d")):
        if value > steps and world()[0] == 0:
            warn(f"{name}={value} is more than the {steps} steps of this run, which ends before {aim} is reached")
    kept = {"module": module, "objective": objective, "optimizer": optimizer}
    done, best = resume(folder, kept)
    rank, processes = world()
    model = module if processes == 1 else torch.nn.parallel.DistributedDataParallel(module)
    monitor = Monitor(module, config, folder, done=done, steps=steps, warmup=warmup, verbose=verbose)
    try:
        for step in range(done + 1, steps + 1):
            # linear up, then linear down to 0
            share = (step - 1) / warmup if step <= warmup else (steps - step + 1) / max(1, steps - warmup)
            for group in optimizer.param_groups:
                group["lr"] = group["peak"] * share
            # dropout is of the step's own seed, so that a resumed run needs no state of generators
            torch.manual_seed((config.seed * 1_000_003 + step) * processes + rank)
            optimizer.zero_grad()
            parts = []
            for number in range((step - 1) * accumulation, step * accumulation):
                sides, targets = batches(number)
                last = (number + 1) % accumulation == 0
                # gradients of several processes are averaged once
                with nullcontext() if last or model is module else model.no_sync():
                    with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
                        queries, documents = model(sides, config.mini_batch_size)
                    loss, part = objective(queries.float(), documents.float(), targets, step - 1)
                    (loss / accumulation).backward()
                parts.append(part)
            norm = float(clip_grad_norm_(module.parameters(), config.max_grad_norm or math.inf))
            if monitor.look(step, parts, norm, share * config.learning_rate):
                optimizer.step()
            evaluate = dev is not None and (step % (config.eval_steps or 100) == 0 or step == steps)
            save = config.save_steps and step % config.save_steps == 0 and step < steps
            if evaluate or save or step == steps:
                monitor.check_weights(step)
            if save and rank == 0:
                states = {name: one.state_dict() for name, one in kept.items()}
                save_whole(folder / CHECKPOINT_FILE, {"step": step, "processes": processes, **states})
            if evaluate and rank == 0:
                score = dev.score(module)
                module.train()
                if score >= best:  # of equal ones the later, sparser one
                    best = score
                    save_whole(folder / BEST_FILE, {"score": score, "step": step, "module": module.state_dict()})
                forget_steps(folder / DEV_FILE, step - 1)
                write_row(folder / DEV_FILE, {"step": step, MEASURE: score})
    finally:
        monitor.close()
    if dev is not None and rank == 0:
        kept_state = load_state(folder / BEST_FILE)
        module.load_state_dict(kept_state["module"])
        steps = kept_state["step"]
    optimizer.zero_grad()
    module.eval()
    return steps


class Batches:
    """Batches by number: full (rows that fill none wait for the next epoch), shuffled anew in each epoch."""

    def __init__(self, rows: Rows, module: SparseHead, config: TrainConfig, negatives: int) -> None:
        self.rows, self.module, self.config, self.negatives = rows, module, config, negatives
        self._epoch, self._order = -1, torch.empty(0)

    def __len__(self) -> int:
        """Batches in an epoch, of this process."""
        return len(self.rows) // (self.config.batch_size * world()[1])

    def __call__(self, number: int) -> tuple[list[dict[str, Any]], Targets]:
        """Both sides of a batch, and what its data say."""
        (epoch, place), (rank, processes) = divmod(number, len(self)), world()
        if epoch != self._epoch:
            generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + epoch)
            self._epoch, self._order = epoch, torch.randperm(len(self.rows), generator=generator)
        start = (place * processes + rank) * self.config.batch_size
        return self.collate([self.rows[one] for one in self._order[start : start + self.config.batch_size].tolist()])

    def collate(self, batch: list[Row]) -> tuple[list[dict[str, Any]], Targets]:
        """Tokens of queries and of documents, and what is known of them."""
        documents = [text for row in batch for text in row.documents[: 1 + self.negatives]]
        known = [sorted(self.rows.no_negatives(row.query) | {text_id(row.documents[0])}) for row in batch]
        width = max(map(len, known))
        scores = [row.scores[: 1 + self.negatives] for row in batch if row.scores is not None]
        length, device = self.config.max_length, self.module.head.weight.device
        sides = [
            self.module.tokenise([row.query for row in batch], self.config.query_max_length or length, queries=True),
            self.module.tokenise(documents, length),
        ]
        return sides, Targets(
            torch.tensor([ids + [-1] * (width - len(ids)) for ids in known], device=device),
            torch.tensor([text_id(text) for text in documents], device=device),
            torch.tensor(scores, dtype=torch.float32, device=device) if len(scores) == len(batch) else None,
        )


def make_optimizer(module: SparseHead, config: TrainConfig) -> torch.optim.Optimizer:
    """AdamW; only matrices decay; a learned k, static query weights and the head's bias have rates of their own."""
    rates = {"log_k": config.scale_learning_rate, "query_weights": config.static_learning_rate}
    groups: dict[tuple[float, float], list[torch.nn.Parameter]] = {}  # by rate and decay
    for name, parameter in module.named_parameters():
        rate = config.bias_learning_rate if parameter is module.head.bias else rates.get(name)
        decay = config.weight_decay if rate is None and parameter.dim() > 1 else 0.0
        if parameter.requires_grad:
            groups.setdefault((config.learning_rate if rate is None else rate, decay), []).append(parameter)
    return torch.optim.AdamW(
        [{"params": p, "lr": rate, "peak": rate, "weight_decay": decay} for (rate, decay), p in groups.items()],
        fused=True,
    )


def resume(folder: Path, kept: dict[str, Any]) -> tuple[int, float]:
    """Load the folder's checkpoint into what is ``kept``: the steps made (0: there is none), the best score on dev."""
    best = load_state(folder / BEST_FILE)["score"] if (folder / BEST_FILE).exists() else -math.inf
    if not (folder / CHECKPOINT_FILE).exists():
        return 0, best
    states, processes = load_state(folder / CHECKPOINT_FILE), world()[1]
    if states["processes"] != processes:
        raise ValueError(
            f"the run in {str(folder)!r} was begun by {states['processes']} process(es), now there are {processes}: go "
            "on with as many, or start anew with overwrite=True"
        )
    for name, one in kept.items():
        one.load_state_dict(states[name])
    return states["step"], best


def load_state(path: Path) -> dict[str, Any]:
    """Tensors that ``save_whole`` saved."""
    return torch.load(path, map_location="cpu", weights_only=True)


def save_whole(path: Path, state: dict[str, Any]) -> None:
    """Save tensors beside, flush them, and put them in place: a reader finds the old file or the new one."""
    beside = path.with_suffix(".new")
    torch.save(state, beside)
    sync(beside)
    os.replace(beside, path)
    sync(path.parent)
