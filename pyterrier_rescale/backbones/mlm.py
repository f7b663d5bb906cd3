"""Masked-LM pretraining for a minute on a CPU: few tokens per step, logits at the chosen positions only."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .architectures import SPECIAL, head_of
from .settings import BackboneSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

PAD, UNK, CLS, SEP, MASK = range(len(SPECIAL))
_POOL = 50  # batches that are sorted by length together
_SHORTEST = 8  # tokens; shorter rests of a text are left out


def make_windows(
    tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], settings: BackboneSettings
) -> list[np.ndarray]:
    """Cut texts, in random order, into windows of at most `max_length` token ids; no more than the steps will use."""
    order = np.random.default_rng(settings.seed).permutation(len(texts))
    needed, inner = settings.steps * settings.batch_size, settings.max_length - 2
    windows: list[np.ndarray] = []
    for start in range(0, len(order), 1_000):
        chunk = [texts[i] for i in order[start : start + 1_000]]
        for ids in tokenizer(chunk, add_special_tokens=False, truncation=False, verbose=False)["input_ids"]:
            for left in range(0, len(ids), inner):
                part = ids[left : left + inner]
                if len(part) >= _SHORTEST or (left == 0 and part):
                    windows.append(np.array([CLS, *part, SEP], dtype=np.int64))
        if len(windows) >= needed:
            break
    return windows[:needed]


def batches(windows: list[np.ndarray], settings: BackboneSettings) -> Iterator[torch.Tensor]:
    """Yield `steps` padded batches (B, L) of windows of like length, in random order, over again if need be."""
    generator = np.random.default_rng(settings.seed + 1)
    size, left = settings.batch_size, settings.steps
    while left > 0:
        order = generator.permutation(len(windows))
        for start in range(0, len(order), size * _POOL):
            pool = sorted(order[start : start + size * _POOL], key=lambda i: len(windows[i]))
            groups = [pool[i : i + size] for i in range(0, len(pool), size)]
            for group in generator.permutation(len(groups)):
                rows = [windows[i] for i in groups[group]]
                batch = np.full((len(rows), max(map(len, rows))), PAD, dtype=np.int64)
                for row, window in enumerate(rows):
                    batch[row, : len(window)] = window
                yield torch.from_numpy(batch)
                left -= 1
                if left == 0:
                    return


def corrupt(
    ids: torch.Tensor, settings: BackboneSettings, vocab_size: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Choose tokens to predict and replace some of them.

    Args:
        ids: token ids (B, L).
        settings: the shares `chosen`, `masked` and `random`.
        vocab_size: random tokens are below it, and no special ones.
        generator: source of randomness.

    Returns:
        the corrupted ids (B, L); chosen (B, L), bool; hidden (B, L), bool: those of the chosen ones that became [MASK].
    """
    chosen = (torch.rand(ids.shape, generator=generator) < settings.chosen) & (ids >= len(SPECIAL))
    dice = torch.rand(ids.shape, generator=generator)
    hidden = chosen & (dice < settings.masked)
    other = chosen & (dice >= settings.masked) & (dice < settings.masked + settings.random)
    noise = torch.randint(len(SPECIAL), vocab_size, ids.shape, generator=generator)
    corrupted = torch.where(hidden, torch.tensor(MASK), torch.where(other, noise, ids))
    return corrupted, chosen, hidden


def pretrain(
    model: PreTrainedModel,
    windows: list[np.ndarray],
    settings: BackboneSettings,
    progress: Callable[[dict[str, float]], Any] | None = None,
) -> dict[str, Any]:
    """Train a masked LM in place with AdamW, warm-up and linear decay.

    Args:
        model: from `build_model`.
        windows: from `make_windows`.
        settings: what to do.
        progress: called after every step with the latest losses.

    Returns:
        seconds, ms_per_step, tokens, unigram_entropy (nats) of the windows, and the curve: step, loss over all chosen
        tokens, loss over those behind [MASK], as means since the row before.

    Raises:
        RuntimeError: if the loss is not finite.
    """
    generator = torch.Generator().manual_seed(settings.seed)
    vocab_size = model.config.vocab_size
    decayed = [p for p in model.parameters() if p.dim() > 1]
    others = [p for p in model.parameters() if p.dim() <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}],
        lr=settings.learning_rate, betas=(0.9, 0.98), eps=1e-6, fused=True,
    )  # fmt: skip
    warmup = max(1, round(settings.warmup * settings.steps))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / warmup, (settings.steps - step) / max(1, settings.steps - warmup))
    )
    head, body = head_of(model), model.base_model
    every = max(1, settings.steps // 20)
    sums = np.zeros(4)
    curve, tokens, start = [], 0, time.perf_counter()
    model.train()
    for step, ids in enumerate(batches(windows, settings), start=1):
        inputs, chosen, hidden = corrupt(ids, settings, vocab_size, generator)
        attention = (ids != PAD).long()
        states = body(input_ids=inputs, attention_mask=attention).last_hidden_state
        if chosen.any():
            losses = torch.nn.functional.cross_entropy(head(states[chosen]), ids[chosen], reduction="none")
            optimizer.zero_grad(set_to_none=True)
            losses.mean().backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            behind = losses.detach()[hidden[chosen]]
            sums += [float(losses.detach().sum()), len(losses), float(behind.sum()), len(behind)]
        schedule.step()
        tokens += int(attention.sum())
        if not math.isfinite(sums[0]):
            raise RuntimeError(f"the masked-LM loss is not finite at step {step}: lower learning_rate")
        if step % every == 0 or step == settings.steps:
            row = {"step": step, "loss": round(sums[0] / max(1, sums[1]), 4)}
            row["mask_loss"] = round(sums[2] / sums[3], 4) if sums[3] else None
            curve.append(row)
            sums[:] = 0
        if progress is not None:
            progress(curve[-1] if curve else {})
    seconds = time.perf_counter() - start
    model.eval()
    return {
        "seconds": round(seconds, 1),
        "ms_per_step": round(1000 * seconds / settings.steps, 1),
        "tokens": tokens,
        "unigram_entropy": round(unigram_entropy(windows), 4),
        "curve": curve,
    }


def unigram_entropy(windows: list[np.ndarray]) -> float:
    """Return the entropy (nats) of the token frequencies, [CLS] and [SEP] aside: the loss of a head without context."""
    counts = np.bincount(np.concatenate([window[1:-1] for window in windows]))
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log(shares)).sum())


@torch.inference_mode()
def own_token_share(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, texts: Sequence[str], top: int = 10
) -> float:
    """Return the share of the `top` terms of a text that are among its own tokens, as a mean over texts.

    Terms are ordered by their logit's maximum over the text's positions, [CLS] and [SEP] aside; special tokens are no
    terms.
    """
    shares = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=128)["input_ids"]
        pooled = model(input_ids=ids).logits[0, 1:-1].max(0).values
        pooled[: len(SPECIAL)] = -math.inf
        own = set(ids[0].tolist())
        shares.append(np.mean([term in own for term in pooled.topk(top).indices.tolist()]))
    return float(np.mean(shares))
