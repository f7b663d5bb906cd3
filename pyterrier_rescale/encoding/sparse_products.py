"""Products with a sparse S of one entry per open pair of position and term: what the head's gradients are made of."""

from __future__ import annotations

import torch
from torch.nn import functional


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """What weights are computed in, for rows of a type."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def sparse_product(
    out_rows: torch.Tensor, in_rows: torch.Tensor, entries: torch.Tensor, dense: torch.Tensor, size: int
) -> torch.Tensor:
    """S @ dense for S of shape (size, len(dense)) with S[out_rows, in_rows] += entries; shape (size, H).

    A weighted embedding bag over the entries sorted by output row: one fused pass without temporaries of
    (entries, H), where an index_add would need one and a sparse matrix product was seen to be slower.
    """
    order = torch.argsort(out_rows, stable=True)
    counts = torch.bincount(out_rows, minlength=size)
    return functional.embedding_bag(
        in_rows[order],
        dense,
        counts.cumsum(0) - counts,  # an empty bag gives a row of zeros
        mode="sum",
        per_sample_weights=entries[order].to(dense.dtype),
    )
