"""The study's figures: dose.png, sparsity.png, dynamics.png."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd

matplotlib.use("Agg")
from matplotlib import pyplot  # noqa: E402

COLOURS = {"raw": "tab:red", "k=16": "tab:blue", "auto": "tab:cyan", "calibrated": "tab:green", "learned": "tab:olive"}
#: Starts whose k is measured or learned.
MARKS = {"auto": "s", "calibrated": "*", "learned": "D"}
NAMES = {"bert": "BERT-like", "modernbert": "ModernBERT-like", "roberta": "RoBERTa-like"}


def draw(table: pd.DataFrame, plain: Callable[..., pd.DataFrame], bm25: dict, folder: Path) -> None:
    """All figures whose runs are there."""
    dose(plain(table), bm25, folder / "dose.png")
    sparsity(plain(table, penalty=None), bm25, folder / "sparsity.png")
    dynamics(plain(table), folder / "dynamics.png")


def dose(rows: pd.DataFrame, bm25: dict, path: Path) -> None:
    """nDCG@10 and active terms against k; auto, calibrated and learned as points at the k that they came to."""
    rows = rows[rows["collection"] == "vaswani"]
    fixed_ks = rows[rows["start"].str.startswith("k=")].groupby("family")["k"].nunique()
    families = [f for f in ("bert", "modernbert") if fixed_ks.get(f, 0) > 2]
    if not families:
        return
    figure, axes = pyplot.subplots(2, len(families), figsize=(9, 5.4), layout="constrained", squeeze=False, sharex=True)
    for column, family in enumerate(families):
        cell = rows[rows["family"] == family]
        for axis, value in zip(axes[:, column], ("ndcg", "active"), strict=True):
            fixed = cell[~cell["start"].isin(MARKS)].groupby("k")[value].agg(["mean", "std"])
            axis.errorbar(fixed.index, fixed["mean"], fixed["std"], marker=".", color="tab:blue", label="W / k")
            for start, mark in MARKS.items():
                found = cell[cell["start"] == start]
                axis.scatter(found["k"], found[value], marker=mark, s=45, color=COLOURS[start], label=start, zorder=3)
            axis.set(xscale="log")
        axes[0, column].axhline(bm25["vaswani"]["ndcg"], color="grey", linestyle=":", label="BM25")
        axes[0, column].set(title=NAMES[family])
        axes[1, column].set(yscale="log", xlabel="k (below 1: the head inflated)")
    axes[0, 0].set(ylabel="nDCG@10")
    axes[1, 0].set(ylabel="active terms per document")
    axes[0, -1].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def sparsity(rows: pd.DataFrame, bm25: dict, path: Path) -> None:
    """nDCG@10 against active terms, a curve per start over the regulariser's weight."""
    rows = rows[(rows["family"] == "modernbert") & (rows["collection"] == "vaswani") & (rows["seed"] == 0)]
    if rows["penalty"].nunique() < 2:
        return
    figure, axis = pyplot.subplots(figsize=(5.5, 3.6), layout="constrained")
    for start, cell in rows.groupby("start"):
        if cell["penalty"].nunique() > 1 and start in COLOURS:
            cell = cell.sort_values("penalty")
            axis.plot(cell["active"], cell["ndcg"], marker="o", label=start, color=COLOURS[start])
            for _, row in cell.iterrows():
                axis.annotate(f"{row['penalty']:g}", (row["active"], row["ndcg"]), fontsize=6, xytext=(2, 3),
                              textcoords="offset points")  # fmt: skip
    axis.axhline(bm25["vaswani"]["ndcg"], color="grey", linestyle=":", label="BM25")
    axis.set(xscale="log", xlabel="active terms per document", ylabel="nDCG@10",
             title="the regulariser times 0.1 to 100")  # fmt: skip
    axis.legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)


def dynamics(rows: pd.DataFrame, path: Path) -> None:
    """Loss, gradient norm and active terms of the ModernBERT-like backbone in training; median and range of seeds."""
    rows = rows[(rows["collection"] == "vaswani") & rows["start"].isin(["raw", "k=16", "auto", "calibrated"])]
    rows = rows[rows["family"] == "modernbert"]
    figure, axes = pyplot.subplots(1, 3, figsize=(10, 3.2), layout="constrained")
    shown = (("contrast", "in-batch loss / chance"), ("grad_norm", "gradient norm"), ("active_d", "terms per document"))
    for axis, (column, label) in zip(axes, shown, strict=True):
        for start, cell in rows.groupby("start"):
            logs = [d for d in cell["dynamics"] if d]
            if not logs:
                continue
            values = np.array([d[column] for d in logs])
            axis.plot(logs[0]["step"], np.median(values, axis=0), marker=".", color=COLOURS[start], label=start)
            axis.fill_between(logs[0]["step"], values.min(axis=0), values.max(axis=0), color=COLOURS[start], alpha=0.15)
        axis.set(xscale="log", yscale="log", xlabel="step", title=label)
    axes[0].legend(frameon=False, fontsize=8)
    figure.savefig(path, dpi=100)
    pyplot.close(figure)
