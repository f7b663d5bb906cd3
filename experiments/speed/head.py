"""The head alone at a language model's size (Qwen3-0.6B: V = 151,936, H = 1,024) beside SparseEncoder's pooling.

    python experiments/speed/head.py --threads 2

Both get the same hidden states, weights and bias, in turns in one process. The stock way computes the logits
(B, L, V) and pools them (sentence-transformers' SpladePooling); ours is the package's head. "training" is the forward
and the backward pass, to the hidden states, the weights and the bias. MB is the largest resident set above the start.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from contenders import PeakMemory
from models import ACTIVE
from sentence_transformers.sparse_encoder.modules import SpladePooling
from torch import Tensor

from pyterrier_rescale.encoding.description import Description
from pyterrier_rescale.encoding.kernel import packed_head


def stock(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Term weights (B, V) of hidden states (B, L, H), by way of all logits."""
    logits = torch.nn.functional.linear(hidden, weight, bias)
    features = {"token_embeddings": logits, "attention_mask": torch.ones(hidden.shape[:2], dtype=torch.long)}
    return SpladePooling("max")(features)["sentence_embedding"]


def ours(hidden: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """The same, without them."""
    lengths = torch.full((len(hidden),), hidden.shape[1])
    return packed_head(hidden.flatten(0, 1), lengths, weight, bias, Description())


def trained(head: Callable[..., Tensor], given: list[Tensor]) -> list[Tensor]:
    """The gradients of the sum of all squared weights."""
    given = [tensor.detach().requires_grad_() for tensor in given]
    return list(torch.autograd.grad(head(*given).square().sum(), given))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--vocabulary", type=int, default=151_936)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    hidden = torch.randn(options.texts, options.length, options.hidden)
    weight = torch.randn(options.vocabulary, options.hidden) / options.hidden**0.5
    pooled = torch.cat([(text @ weight.T).amax(dim=0) for text in hidden[:4]])
    bias = torch.zeros(len(weight)) - pooled.topk(4 * ACTIVE).values[-1]
    given = [hidden, weight, bias]
    with torch.no_grad():
        torch.testing.assert_close(ours(*given), stock(*given), rtol=1e-4, atol=1e-4)
    for a, b in zip(trained(ours, given), trained(stock, given), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    for task in ("encoding", "training"):
        seconds: dict[str, list[float]] = {"ours": [], "stock": []}
        memory: dict[str, float] = {}
        for _ in range(options.rounds):
            for name, head in (("ours", ours), ("stock", stock)):
                with PeakMemory() as peak, torch.set_grad_enabled(task == "training"):
                    start = time.perf_counter()
                    trained(head, given) if task == "training" else head(*given)
                    seconds[name].append(time.perf_counter() - start)
                memory[name] = max(memory.get(name, 0.0), peak.mb)
        ratio = statistics.median(b / a for a, b in zip(seconds["ours"], seconds["stock"], strict=True))
        for name, values in seconds.items():
            print(f"{task:9} {name:6} {statistics.median(values):7.2f} s {memory[name]:8,.0f} MB")
        print(f"{task:9} ours is faster by {ratio:.2f}x", flush=True)


if __name__ == "__main__":
    main()
