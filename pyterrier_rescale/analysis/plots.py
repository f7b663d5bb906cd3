"""Figures of audits and calibrations: a row per model, a panel per question."""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from .verdict import ANISOTROPIC, DENSE, MODERNBERT_NORM, SINK

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_BLUE, _RED, _GREY, _GREEN = "#1b6ca8", "#d1495b", "#7d8597", "#2e8b57"


class ShownFigure(Figure):
    """A figure with a picture for IPython, which knows how to draw matplotlib's own only once pyplot was imported."""

    def _repr_png_(self) -> bytes:
        out = io.BytesIO()
        self.savefig(out, format="png", bbox_inches="tight")
        return out.getvalue()


def blank_figure(width: float, height: float, columns: int = 1, **options: Any) -> tuple[Figure, Any]:
    """A figure in inches and its axes (rows, columns), without pyplot: no window, no global state."""
    figure = ShownFigure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(squeeze=False, ncols=columns, **options)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
        axis.title.set_fontsize(10)
    return figure, axes


def log_axis(axes: Axes, which: str) -> None:
    """Make the x or y axis of what is drawn logarithmic, with plain numbers that do not overlap."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set(**{f"{which}scale": "log"})
    axis = getattr(axes, f"{which}axis")
    low, high = axis.get_view_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 200 * low else (1,)))
    axis.set_major_formatter(lambda value, _: f"{value:,g}")
    axis.set_minor_formatter(NullFormatter())


def plot_audits(audits: Sequence[Any]) -> Figure:
    """Row norms; with texts also logits, score spread, and the shares that tell density, sink and anisotropy.

    A row per ``HeadAudit``, the first on top.
    """
    measured = any("texts" in audit.numbers for audit in audits)
    panels = [_row_norms, _logits, _spread, _shares] if measured else [_row_norms]
    figure, axes = blank_figure(1.4 + 3.6 * len(panels), 1.7 + 0.55 * len(audits), len(panels))
    for axis, draw in zip(axes[0], panels, strict=True):
        draw(axis, audits)
        axis.set_ylim(len(audits) - 0.4, -0.6)
        axis.set_yticks(range(len(audits)), [""] * len(audits))
        axis.tick_params(axis="y", length=0)
        axis.grid(axis="x", color="#e6e6e6", linewidth=0.8)
        axis.set_axisbelow(True)
    names = [os.path.basename(str(audit.name).rstrip("/")) or audit.name for audit in audits]
    axes[0, 0].set_yticks(range(len(audits)), [name if len(name) <= 28 else f"{name[:25]}..." for name in names])
    return figure


def plot_calibration(calibration: Any) -> Figure:
    """The criterion, initial InfoNCE, and active terms against k, with the k chosen."""
    criterion, aim = calibration.settings["criterion"], calibration.settings["aim"]
    table = calibration.table.assign(aim=aim)
    figure, axes = blank_figure(11.3, 3.1, 3)
    panels = {
        criterion: [(criterion, "o-", "at the start"), ("aim", "--", f"aim {aim:g}")],
        "InfoNCE": [("infonce", "o-", "at the start"), ("chance_loss", ":", "of a guess")],
        "active terms": [("active_terms", "o-", "per document"), ("active_terms_query", "s-", "per query")],
    }
    for axis, (title, lines) in zip(axes[0], panels.items(), strict=True):
        for (column, style, label), colour in zip(lines, (_BLUE, _GREY), strict=True):
            axis.plot(table["k"], table[column], style, color=colour, markersize=3, label=label)
        axis.axvline(calibration.k, color="black", linewidth=0.8, label=f"k = {calibration.k:.3g}")
        axis.set(title=title.replace("_", " "), xlabel="k")
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.legend(frameon=False, fontsize=8)
    log_axis(axes[0, 1], "y")
    return figure


def _row_norms(axis: Axes, audits: Sequence[Any]) -> None:
    for y, audit in enumerate(audits):
        axis.hlines(y, audit.numbers["row_norm_p5"], audit.numbers["row_norm_p95"], _BLUE, linewidth=6, alpha=0.6)
        axis.plot([audit.mean_row_norm], [y], "o", color="black", markersize=4)
    axis.axvline(MODERNBERT_NORM, color=_GREY, linestyle=":", linewidth=1)
    axis.set(title="row norms of W (5% to 95%)", xlabel="L2 norm (dot: mean; dotted: ModernBERT-base)")
    log_axis(axis, "x")


def _logits(axis: Axes, audits: Sequence[Any]) -> None:
    for name, shift, label, colour in (
        ("logit", -0.15, "content positions", _BLUE),
        ("special_logit", 0.15, "special positions", _RED),
    ):
        means, stds = (np.array([a.numbers.get(f"{name}_{what}", np.nan) for a in audits]) for what in ("mean", "std"))
        places = np.arange(len(audits)) + shift
        axis.errorbar(means, places, xerr=stds, color=colour, fmt="o", markersize=5, linewidth=2, label=label)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set(title="logits", xlabel="mean and standard deviation")
    axis.legend(frameon=False, fontsize=7, loc="upper left")


def _spread(axis: Axes, audits: Sequence[Any]) -> None:
    for y, audit in enumerate(audits):
        spread = audit.numbers.get("score_spread", np.nan) / audit.numbers.get("temperature", 1)
        if spread > 0:
            axis.plot([spread], [y], "o", color=_RED if "scale mismatch" in audit.findings else _GREEN, markersize=7)
            text = f"{spread:,.1f} ({audit.numbers['random_saturation']:.0%})"
            axis.annotate(text, (spread, y), xytext=(0, 7), textcoords="offset points", fontsize=8, ha="center")
    axis.set(xscale="log", title="score spread (saturation)", xlabel="std of a query's scores / temperature")
    axis.margins(x=0.4)


def _shares(axis: Axes, audits: Sequence[Any]) -> None:
    for name, limit, marker, colour, label, shift in (
        ("active_share", DENSE, "o", _BLUE, "vocabulary that fires", -0.22),
        ("special_share", SINK, "s", _RED, "maxima at special positions", 0),
        ("cosine_hidden", ANISOTROPIC, "D", _GREY, "cosine of hidden vectors", 0.22),
    ):
        places = np.arange(len(audits)) + shift
        values = [audit.numbers.get(name, np.nan) for audit in audits]
        axis.plot(values, places, marker, color=colour, markersize=6, linestyle="none", label=label)
        axis.vlines([limit] * len(audits), places - 0.1, places + 0.1, color=colour, linewidth=1.5)
    axis.set(title="density, sink, anisotropy", xlabel="share, cosine (bar: limit)")
    axis.set_xlim(min(0, axis.get_xlim()[0]), 1.03)
    axis.legend(frameon=False, fontsize=7, loc="upper left", bbox_to_anchor=(1, 1))
