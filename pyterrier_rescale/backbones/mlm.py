"""Masked-LM pretraining for a minute on a CPU: few tokens per step, logits at the chosen positions only."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from .architectures import SPECIAL, head_of
from .settings import BackboneSettings, Settings

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

PAD, UNK, CLS, SEP, MASK = range(len(SPECIAL))
_POOL = 50  # batches that are sorted by length together
_SHORTEST = 8  # tokens; shorter rests of a text are left out


class SpecialIds(NamedTuple):
    """Ids of the special tokens that windows and masking need.

    Attributes:
        pad: fills batches.
        cls: before a window.
        sep: behind it.
        mask: stands for a hidden token.
        every: all special ids, which are never predicted.
    """

    pad: int
    cls: int
    sep: int
    mask: int
    every: tuple[int, ...]

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerBase) -> SpecialIds:
        """Those of a tokenizer; where it has no pair of [CLS] and [SEP], <s> and </s>.

        Raises:
            ValueError: if one of them is missing.
        """
        ids = {
            "pad": tokenizer.pad_token_id,
            "cls": tokenizer.bos_token_id if tokenizer.cls_token_id is None else tokenizer.cls_token_id,
            "sep": tokenizer.eos_token_id if tokenizer.sep_token_id is None else tokenizer.sep_token_id,
            "mask": tokenizer.mask_token_id,
        }
        missing = [name for name, value in ids.items() if value is None]
        if missing:
            raise ValueError(f"tokenizer has no {', '.join(missing)} token, which masked-LM training needs")
        return cls(**ids, every=tuple(sorted(set(tokenizer.all_special_ids))))


#: Those of the tokenizers of `train_tokenizer`.
OWN = SpecialIds(PAD, CLS, SEP, MASK, tuple(range(len(SPECIAL))))


def make_windows(
    tokenizer: PreTrainedTokenizerFast,
    texts: Sequence[str],
    settings: Settings,
    special: SpecialIds = OWN,
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
                    windows.append(np.array([special.cls, *part, special.sep], dtype=np.int64))
        if len(windows) >= needed:
            break
    if not windows:
        raise ValueError(f"texts hold no token to learn from: the tokenizer makes nothing of {texts[0]!r:.60}")
    return windows[:needed]


def batches(
    windows: list[np.ndarray], settings: Settings, pad: int = PAD
) -> Iterator[torch.Tensor]:
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
                batch = np.full((len(rows), max(map(len, rows))), pad, dtype=np.int64)
                for row, window in enumerate(rows):
                    batch[row, : len(window)] = window
                yield torch.from_numpy(batch)
                left -= 1
                if left == 0:
                    return


def corrupt(
    ids: torch.Tensor,
    settings: Settings,
    vocab_size: int,
    generator: torch.Generator,
    special: SpecialIds = OWN,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Choose tokens to predict and replace some of them.

    Args:
        ids: token ids (B, L).
        settings: the shares `chosen`, `masked` and `random`.
        vocab_size: random tokens are below it, and no special ones.
        generator: source of randomness.
        special: ids that are left alone, and that of [MASK].

    Returns:
        the corrupted ids (B, L); chosen (B, L), bool; hidden (B, L), bool: those of the chosen ones that became [MASK].
    """
    every = torch.tensor(special.every)
    ordinary = torch.ones(vocab_size, dtype=torch.bool)
    ordinary[every] = False
    ordinary = ordinary.nonzero().ravel()
    chosen = (torch.rand(ids.shape, generator=generator) < settings.chosen) & ~torch.isin(ids, every)
    dice = torch.rand(ids.shape, generator=generator)
    hidden = chosen & (dice < settings.masked)
    other = chosen & (dice >= settings.masked) & (dice < settings.masked + settings.random)
    noise = ordinary[torch.randint(len(ordinary), ids.shape, generator=generator)]
    corrupted = torch.where(hidden, torch.tensor(special.mask), torch.where(other, noise, ids))
    return corrupted, chosen, hidden


def pretrain(
    model: PreTrainedModel,
    windows: list[np.ndarray],
    settings: BackboneSettings,
    progress: Callable[[dict[str, float]], Any] | None = None,
) -> dict[str, Any]:
    """Train a model of `build_model` in place on `make_windows`, with AdamW, warm-up and linear decay.

    ``progress`` is called after every step with the latest losses.

    Returns:
        seconds, ms_per_step, tokens, unigram_entropy (nats) of the windows, and the curve: step, loss over all chosen
        tokens, loss over those behind [MASK], as means since the row before.

    Raises:
        RuntimeError: if the loss is not finite.
    """
    head, body = head_of(model), model.base_model

    def logits(ids: torch.Tensor, attention: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        return head(body(input_ids=ids, attention_mask=attention).last_hidden_state[chosen])

    model.train()
    run = MaskedTraining(model.config.vocab_size, settings, progress)
    parameters = list(model.parameters())
    optimizer = adamw([(parameters, settings.learning_rate)])
    run.stage(batches(windows, settings), settings.steps, logits, optimizer, parameters)
    model.eval()
    return run.report(windows)


def adamw(groups: Sequence[tuple[list[torch.nn.Parameter], float]]) -> torch.optim.AdamW:
    """AdamW over (parameters, learning rate) groups; matrices are decayed, vectors are not."""
    parts = []
    for parameters, rate in groups:
        parts += [
            {"params": [p for p in parameters if p.dim() > 1], "lr": rate, "weight_decay": 0.01},
            {"params": [p for p in parameters if p.dim() <= 1], "lr": rate, "weight_decay": 0.0},
        ]
    return torch.optim.AdamW([part for part in parts if part["params"]], betas=(0.9, 0.98), eps=1e-6, fused=True)


class MaskedTraining:
    """The steps of masked-LM training, in one stage or several, and their log.

    ``progress`` is called after every step with the latest losses.
    """

    def __init__(
        self,
        vocab_size: int,
        settings: Settings,
        progress: Callable[[dict[str, float]], Any] | None = None,
        special: SpecialIds = OWN,
    ) -> None:
        self.vocab_size, self.settings, self.progress, self.special = vocab_size, settings, progress, special
        self.generator = torch.Generator().manual_seed(settings.seed)
        self.curve: list[dict[str, float]] = []
        self.tokens = self.steps = 0
        self._sums = np.zeros(4)
        self._every = max(1, settings.steps // 20)
        self._start = time.perf_counter()

    def stage(
        self,
        ids_of_steps: Iterator[torch.Tensor],
        steps: int,
        logits: Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor],
        optimizer: torch.optim.Optimizer,
        parameters: list[torch.nn.Parameter],
    ) -> None:
        """Take steps with warm-up and linear decay; ``logits(ids, attention, chosen)`` gives those of chosen tokens.

        The gradient of all ``parameters`` together is clipped to norm 1.

        Raises:
            RuntimeError: if the loss is not finite.
        """
        warmup = max(1, round(self.settings.warmup * steps))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: min((step + 1) / warmup, (steps - step) / max(1, steps - warmup))
        )
        for _ in range(steps):
            ids = next(ids_of_steps)
            self._step(ids, logits, optimizer, parameters)
            schedule.step()

    def _step(self, ids: torch.Tensor, logits: Any, optimizer: Any, parameters: list[torch.nn.Parameter]) -> None:
        self.steps += 1
        inputs, chosen, hidden = corrupt(ids, self.settings, self.vocab_size, self.generator, self.special)
        attention = (ids != self.special.pad).long()
        if chosen.any():
            losses = torch.nn.functional.cross_entropy(logits(inputs, attention, chosen), ids[chosen], reduction="none")
            optimizer.zero_grad(set_to_none=True)
            losses.mean().backward()
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            behind = losses.detach()[hidden[chosen]]
            self._sums += [float(losses.detach().sum()), len(losses), float(behind.sum()), len(behind)]
        self.tokens += int(attention.sum())
        sums = self._sums
        if not math.isfinite(sums[0]):
            raise RuntimeError(f"the masked-LM loss is not finite at step {self.steps}: lower learning_rate")
        if self.steps % self._every == 0 or self.steps == self.settings.steps:
            row = {"step": self.steps, "loss": round(sums[0] / max(1, sums[1]), 4)}
            row["mask_loss"] = round(sums[2] / sums[3], 4) if sums[3] else None
            self.curve.append(row)
            sums[:] = 0
        if self.progress is not None:
            self.progress(self.curve[-1] if self.curve else {})

    def report(self, windows: list[np.ndarray]) -> dict[str, Any]:
        """What `pretrain` returns."""
        seconds = time.perf_counter() - self._start
        return {
            "seconds": round(seconds, 1),
            "ms_per_step": round(1000 * seconds / self.settings.steps, 1),
            "tokens": self.tokens,
            "unigram_entropy": round(unigram_entropy(windows), 4),
            "curve": self.curve,
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
    special = tokenizer.all_special_ids
    for text in texts:
        ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=128)["input_ids"]
        pooled = model(input_ids=ids).logits[0, 1:-1].max(0).values
        pooled[special] = -math.inf
        own = set(ids[0].tolist())
        shares.append(np.mean([term in own for term in pooled.topk(top).indices.tolist()]))
    return float(np.mean(shares))
