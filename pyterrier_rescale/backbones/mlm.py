"""Masked-LM pretraining for a minute on a CPU: few tokens per step, logits at the chosen positions only."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.stats import entropy
from torch.nn import functional

from ..heads.decoder import find_head, head_input
from .settings import Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_POOL = 50  # batches that are sorted by length together
_SHORTEST = 8  # tokens; shorter rests of a text are left out


def pretrain(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    settings: Settings,
    stages: Sequence[tuple[int, list[tuple[list[torch.nn.Parameter], float]]]],
    bar: Any,
) -> dict[str, Any]:
    """Train a masked LM in place, with AdamW, warm-up and linear decay in each stage, and the gradient clipped to 1.

    A stage is a number of steps, and pairs of parameters and the peak of their learning rate; all other parameters are
    frozen meanwhile. The model is in eval mode: in one pass over the texts there is nothing to overfit.

    Returns time, tokens, and the curve: step, loss over all chosen tokens, loss over those behind [MASK], as means
    since the row before. ``ValueError`` if the texts hold no token, ``RuntimeError`` if the loss is not finite.
    """
    windows = make_windows(tokenizer, texts, settings)
    batches = make_batches(windows, settings, tokenizer.pad_token_id)
    generator = torch.Generator().manual_seed(settings.seed)
    model.float().eval()
    head = find_head(model)
    curve: list[dict[str, Any]] = []
    sums, tokens, step, begun = np.zeros(4), 0, 0, time.perf_counter()
    every = max(1, settings.steps // 20)
    for steps, groups in stages:
        trained = [parameter for parameters, _ in groups for parameter in parameters]
        model.requires_grad_(False)
        for parameter in trained:
            parameter.requires_grad_(True)
        parts = [
            {"params": [p for p in parameters if (p.dim() > 1) == matrices], "lr": rate, "weight_decay": decay}
            for parameters, rate in groups
            for matrices, decay in ((True, 0.01), (False, 0.0))
        ]
        optimizer = torch.optim.AdamW([p for p in parts if p["params"]], betas=(0.9, 0.98), eps=1e-6, fused=True)
        warmup = max(1, round(settings.warmup * steps))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda done, end=steps, top=warmup: min((done + 1) / top, (end - done) / max(1, end - top))
        )
        for _ in range(steps):
            step += 1
            ids = next(batches)
            mask = ids != tokenizer.pad_token_id
            inputs, chosen, hidden = corrupt(ids, settings, tokenizer, generator)
            if chosen.any():
                t = head_input(model, input_ids=inputs, attention_mask=mask.long())[chosen]
                logits = functional.linear(t, head.weight, head.bias)
                losses = functional.cross_entropy(logits, ids[chosen], reduction="none")
                optimizer.zero_grad()
                losses.mean().backward()
                torch.nn.utils.clip_grad_norm_(trained, 1.0)
                optimizer.step()
                losses, behind = losses.detach(), hidden[chosen]
                sums += [float(losses.sum()), len(losses), float(losses[behind].sum()), int(behind.sum())]
            schedule.step()
            tokens += int(mask.sum())
            if not math.isfinite(sums[0]):
                raise RuntimeError(f"the masked-LM loss is not finite at step {step}: lower learning_rate")
            if step % every == 0 or step == settings.steps:
                means = [round(total / count, 4) if count else None for total, count in sums.reshape(2, 2)]
                curve.append({"step": step, "loss": means[0], "mask_loss": means[1]})
                sums[:] = 0
                bar.set_postfix(loss=means[0], refresh=False)
            bar.update()
    model.requires_grad_(True)
    seconds = time.perf_counter() - begun
    counts = np.bincount(np.concatenate([window[1:-1] for window in windows]))
    return {
        "seconds": round(seconds, 1),
        "ms_per_step": round(1000 * seconds / step, 1),
        "tokens": tokens,
        "unigram_entropy": round(float(entropy(counts)), 4),  # the loss of a head without context
        "curve": curve,
    }


def make_windows(tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], settings: Settings) -> list[np.ndarray]:
    """Cut texts, in random order, into as many windows [CLS] ... [SEP] (or <s> ... </s>) as the steps will use."""
    begin = tokenizer.bos_token_id if tokenizer.cls_token_id is None else tokenizer.cls_token_id
    end = tokenizer.eos_token_id if tokenizer.sep_token_id is None else tokenizer.sep_token_id
    order = np.random.default_rng(settings.seed).permutation(len(texts))
    needed, inner = settings.steps * settings.batch_size, settings.max_length - 2
    windows: list[np.ndarray] = []
    for start in range(0, len(order), 1_000):
        chunk = [texts[i] for i in order[start : start + 1_000]]
        for ids in tokenizer(chunk, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]:
            for left in range(0, len(ids), inner):
                part = ids[left : left + inner]
                if len(part) >= _SHORTEST or (left == 0 and part):
                    windows.append(np.array([begin, *part, end], dtype=np.int64))
        if len(windows) >= needed:
            break
    if not windows:
        raise ValueError(f"texts hold no token to learn from: the tokenizer makes nothing of {texts[0]!r:.60}")
    return windows[:needed]


def make_batches(windows: list[np.ndarray], settings: Settings, pad: int) -> Iterator[torch.Tensor]:
    """Yield padded batches (B, L) of windows of like length, in random order, without end."""
    generator = np.random.default_rng(settings.seed + 1)
    size = settings.batch_size
    while True:
        order = generator.permutation(len(windows))
        for start in range(0, len(order), size * _POOL):
            pool = sorted(order[start : start + size * _POOL], key=lambda i: len(windows[i]))
            groups = [pool[i : i + size] for i in range(0, len(pool), size)]
            for group in generator.permutation(len(groups)):
                rows = [torch.from_numpy(windows[i]) for i in groups[group]]
                yield torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=pad)


def corrupt(
    ids: torch.Tensor, settings: Settings, tokenizer: PreTrainedTokenizerBase, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Corrupted ids (B, L), which tokens were chosen, and which of these became [MASK]; special ones are left alone."""
    special, every = torch.tensor(tokenizer.all_special_ids), torch.arange(len(tokenizer))
    ordinary = every[~torch.isin(every, special)]
    draw, dice = (torch.rand(ids.shape, generator=generator, dtype=torch.float32) for _ in range(2))
    chosen = (draw < settings.chosen) & ~torch.isin(ids, special)
    hidden = chosen & (dice < settings.masked)
    other = chosen & (dice >= settings.masked) & (dice < settings.masked + settings.random)
    noise = ordinary[torch.randint(len(ordinary), ids.shape, generator=generator)]
    corrupted = torch.where(hidden, torch.tensor(tokenizer.mask_token_id), torch.where(other, noise, ids))
    return corrupted, chosen, hidden
