"""Where our encoder's time goes, and which share of the machine's own rate of matrix products it reaches."""

from __future__ import annotations

import time
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from models import MAX_LENGTH, SHAPES, some_texts


def gemm_rate(rows: int, hidden: int, out: int) -> float:
    """GFLOP/s of a plain fp32 product, median of several."""
    a, b, result = torch.randn(rows, hidden), torch.randn(hidden, out), torch.empty(rows, out)
    seconds = []
    for _ in range(9):
        start = time.perf_counter()
        torch.mm(a, b, out=result)
        seconds.append(time.perf_counter() - start)
    return 2 * rows * hidden * out / float(np.median(seconds)) / 1e9


def flops(encoder, lengths: np.ndarray) -> tuple[float, float]:
    """Multiply-adds of body and head for texts of these lengths, counted twice each, in GFLOP (no padding)."""
    model, head = encoder.model, encoder.head
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
    parameters = {id(m.weight): m.weight.numel() for m in model.modules() if isinstance(m, torch.nn.Linear)}
    body = sum(n for key, n in parameters.items() if key not in embeddings and key != id(head.weight))
    layers, hidden = model.config.num_hidden_layers, model.config.hidden_size
    attention = 4.0 * layers * hidden * float((lengths.astype(float) ** 2).sum())
    return (2.0 * body * lengths.sum() + attention) / 1e9, 2.0 * head.weight.numel() * lengths.sum() / 1e9


def breakdown(shape: str, folder: Path, texts: int, batch_size: int, screening: str) -> dict:
    """The row of one shape; ``screening`` is ``"no"`` or ``"bfloat16"``."""
    from pyterrier_rescale import Splade
    from pyterrier_rescale.encoding.blocks import text_batches
    from pyterrier_rescale.encoding.kernel import packed_head
    from pyterrier_rescale.encoding.screening import Screen
    from pyterrier_rescale.encoding.text_encoder import to_csr
    from pyterrier_rescale.encoding.texts import token_ids

    sample = some_texts(texts)
    splade = Splade(folder, device="cpu", batch_size=batch_size, max_length=MAX_LENGTH)
    encoder, weight, bias = splade.encoder, splade.encoder.head.weight, splade.encoder.head.bias
    seconds = dict.fromkeys(("tokeniser", "body", "head", "output"), 0.0)

    def timed(part: str, work):
        start = time.perf_counter()
        result = work()
        seconds[part] += time.perf_counter() - start
        return result

    encoder.encode(sample[:16])
    rates = [gemm_rate(2048, SHAPES[shape][2], SHAPES[shape][3])]
    ids = timed("tokeniser", lambda: token_ids(encoder.tokenizer, sample, encoder.max_length))
    lengths = np.array([len(row) for row in ids])
    batches = []
    for members in text_batches(lengths, batch_size):
        batches.append(timed("body", lambda members=members: encoder._run(members, [ids[i] for i in members])))
        rates.append(gemm_rate(2048, SHAPES[shape][2], SHAPES[shape][3]))
    undecided, is_open = [], []
    with (
        mock.patch("pyterrier_rescale.encoding.kernel.make_screen", lambda weight: None),
        torch.inference_mode(),
    ):
        screen = timed("head", lambda: Screen(weight)) if screening != "no" else None
        for held in encoder._together(iter(batches)):
            rows = torch.cat([batch.hidden[batch.mask] for batch in held])
            sizes = torch.cat([batch.lengths for batch in held])
            head = lambda r=rows, n=sizes: packed_head(r, n, weight, bias, encoder.description, screen=screen)  # noqa: E731
            weights = timed("head", head)
            timed("output", lambda w=weights: to_csr(w))
            rates.append(gemm_rate(2048, SHAPES[shape][2], SHAPES[shape][3]))
            is_open.append((weights > 0).float().mean(dim=1))
            if screen is not None:
                undecided.append(1 - screen.closed(rows, sizes, bias).float().mean(dim=1))
    body, head = flops(encoder, lengths)
    padded = sum(batch.mask.numel() for batch in batches)  # positions that go through the body
    rate, total = float(np.median(rates)), sum(seconds.values())
    return {
        "task": "breakdown", "shape": shape, "screening": screening,
        **{f"{part} %": 100 * value / total for part, value in seconds.items()},
        "gemm_gflops": rate, "body of gemm": body / seconds["body"] / rate,
        "head of gemm": head / seconds["head"] / rate,
        "all of gemm": (body + head) / total / rate,
        "padding %": 100 * (padded / lengths.sum() - 1),
        "with padding": (body * padded / lengths.sum() + head) / total / rate,
        "open %": 100 * float(torch.cat(is_open).mean()),
        "undecided %": 100 * float(torch.cat(undecided).mean()) if undecided else None,
    }  # fmt: skip
