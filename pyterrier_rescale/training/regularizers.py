"""Regularisers: what pushes term weights to zero, and how their weight grows.

To add one, write a subclass of :class:`Regularizer` and one line in ``REGULARIZERS``; its name is then an option of
``train(regularizer=...)`` and of the command line.
"""

from __future__ import annotations

import math

import torch
from torch import nn

from .distributed import batch_mean, world


class Regularizer(nn.Module):
    """A penalty on term weights; queries and documents have one each, whose buffers are saved with checkpoints."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.vocab_size = vocab_size

    def forward(self, weights: torch.Tensor) -> torch.Tensor:
        """The penalty of x (B, V), a scalar; averages go through ``batch_mean``, which is over all processes."""
        raise NotImplementedError


class Flops(Regularizer):
    """sum_v (mean_i x_iv)^2: the expected cost of a dot product (arXiv:2004.05665, equation 4)."""

    def forward(self, weights: torch.Tensor) -> torch.Tensor:
        """The penalty of x (B, V)."""
        return batch_mean(weights).square().sum()


class L1(Regularizer):
    """mean_i sum_v |x_iv|."""

    def forward(self, weights: torch.Tensor) -> torch.Tensor:
        """The penalty of x (B, V)."""
        return batch_mean(weights).abs().sum()


class DFFlops(Regularizer):
    """sum_v (w_v mean_i x_iv)^2 with w_v rising with the document frequency of v (arXiv:2505.15070).

    w_v = 1 / (1 + (df_v^(log_alpha 2) - 1)^beta), which is 1/2 where the share df_v of texts that v fires in is alpha.
    The paper measures df on a validation set; here it is a moving average over about 100 training batches.
    """

    alpha, beta, memory = 0.1, 10.0, 0.99

    def __init__(self, vocab_size: int) -> None:
        super().__init__(vocab_size)
        self.register_buffer("frequency", torch.zeros(vocab_size, dtype=torch.float32))
        self.register_buffer("batches", torch.zeros((), dtype=torch.float32))

    def forward(self, weights: torch.Tensor) -> torch.Tensor:
        """The penalty of x (B, V)."""
        with torch.no_grad():
            self.batches += 1
            # the mean of all batches at first, then a moving one
            step = torch.clamp_min(1 / self.batches, 1 - self.memory)
            self.frequency += step * (batch_mean((weights > 0).float()) - self.frequency)
        return (self.penalty_weights(self.frequency) * batch_mean(weights)).square().sum()

    def penalty_weights(self, frequency: torch.Tensor) -> torch.Tensor:
        """w_v of the shares of texts (V,), in [0, 1]."""
        exponent = math.log(2) / math.log(self.alpha)
        odds = frequency.clamp(1e-6, 1).pow(exponent) - 1
        return 1 / (1 + odds.clamp_min(0).pow(self.beta))


class AntiZero(Flops):
    """FLOPS plus 1 / (sum of all weights of the batch, of all processes)^2: keeps a batch from going all zero."""

    def forward(self, weights: torch.Tensor) -> torch.Tensor:
        """The penalty of x (B, V)."""
        mean = batch_mean(weights)
        total = mean.sum() * (len(weights) * world()[1])
        return mean.square().sum() + 1 / (total.square() + 1e-8)


REGULARIZERS: dict[str, type[Regularizer]] = {
    "flops": Flops,
    "l1": L1,
    "df_flops": DFFlops,
    "anti_zero": AntiZero,
}

#: Shape of the growth from 0 to 1, by name: the power of (step / ramp_steps).
RAMPS = {"quadratic": 2, "linear": 1}


def ramp_share(step: int, steps: int, shape: str) -> float:
    """Share of lambda in force at a step: min(1, step / steps) ** power (arXiv:2107.05720, section 3: quadratic)."""
    return 1.0 if step >= steps else (step / steps) ** RAMPS[shape]
