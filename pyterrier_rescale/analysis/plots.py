"""Figures of audits and calibrations: a row per model, a panel per question."""

from __future__ import annotations

import html
import io
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure

from .verdict import ANISOTROPIC, DENSE, MODERNBERT_NORM, SINK

if TYPE_CHECKING:
    import pandas as pd
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


def plot_audits(audits: Sequence[Any], path: str | os.PathLike[str] | None = None) -> Figure:
    """Row norms; with texts also logits, score spread, and the shares that tell density, sink and anisotropy.

    A row per ``HeadAudit``, the first on top. The ending of ``path`` gives the format of the file.
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
    return _saved(figure, path)


def plot_calibration(calibration: Any, path: str | os.PathLike[str] | None = None) -> Figure:
    """The criterion, initial InfoNCE, and active terms against k, with the k chosen."""
    criterion, aim = calibration.settings["criterion"], calibration.settings["aim"]
    table = calibration.table.assign(aim=aim)
    figure, axes = blank_figure(11.3, 3.1, 3)
    panels = {
        criterion: {criterion: "at the start", "aim": f"aim {aim:g}"},
        "InfoNCE": {"infonce": "at the start", "chance_loss": "of a guess"},
        "active terms": {"active_terms": "per document", "active_terms_query": "per query"},
    }
    for axis, (title, lines) in zip(axes[0], panels.items(), strict=True):
        for (column, label), style, colour in zip(lines.items(), ("o-", "s--"), (_BLUE, _GREY), strict=True):
            axis.plot(table["k"], table[column], style, color=colour, markersize=3, label=label)
        axis.axvline(calibration.k, color="black", linewidth=0.8, label=f"k = {calibration.k:.3g}")
        axis.set(title=title.replace("_", " "), xlabel="k")
        axis.set_xscale("log", base=2)
        axis.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.legend(frameon=False, fontsize=8)
    log_axis(axes[0, 1], "y")
    return _saved(figure, path)


def as_html(verdict: str, table: pd.DataFrame, figure: Figure) -> str:
    """Verdict, table and figure (inline SVG) for notebooks."""
    out = io.StringIO()
    figure.savefig(out, format="svg", bbox_inches="tight")
    svg = out.getvalue()
    shown = table.to_html(float_format="{:.4g}".format, border=0)
    return f"<p>{html.escape(verdict)}</p>{shown}{svg[svg.index('<svg') :]}"


def _row_norms(axis: Axes, audits: Sequence[Any]) -> None:
    for y, audit in enumerate(audits):
        _percentiles(axis, y, audit.row_norms[audit.used & (audit.row_norms > 0)], _BLUE)
        axis.plot([audit.mean_row_norm], [y], "o", color="black", markersize=4)
    axis.axvline(MODERNBERT_NORM, color=_GREY, linestyle=":", linewidth=1)
    axis.set(title="row norms of W", xlabel="L2 norm (dot: mean; dotted: ModernBERT-base)")
    log_axis(axis, "x")


def _logits(axis: Axes, audits: Sequence[Any]) -> None:
    for y, audit in enumerate(audits):
        for shift, kind, colour in ((-0.18, "content", _BLUE), (0.22, "special", _RED)):
            values = audit.logits.get(kind, np.empty(0))
            if len(values):
                _percentiles(axis, y + shift, values, colour, f"{kind} positions" if y == 0 else None)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.set(title="logits", xlabel="logit")
    axis.legend(frameon=False, fontsize=7, loc="upper left")


def _spread(axis: Axes, audits: Sequence[Any]) -> None:
    for y, audit in enumerate(audits):
        spread = audit.numbers.get("score_spread", np.nan) / audit.numbers.get("temperature", 1)
        if spread > 0:
            axis.plot([spread], [y], "o", color=_RED if "scale mismatch" in audit.findings else _GREEN, markersize=7)
            text = f"{spread:,.1f} ({audit.numbers['random_saturation']:.0%})"
            axis.annotate(text, (spread, y), xytext=(0, 7), textcoords="offset points", fontsize=8, ha="center")
    axis.set(xscale="log", title="score spread (saturation)", xlabel="std of a query's scores / temperature")
    low, high = axis.get_xlim()
    axis.set_xlim(min(low, 0.1) / 4, max(high, 100) * 4)


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


def _percentiles(axis: Axes, y: float, values: np.ndarray, colour: str, label: str | None = None) -> None:
    """A line from the .1 to the 99.9 percentile, thick from the 25 to the 75."""
    low, first, third, high = np.quantile(values, [0.001, 0.25, 0.75, 0.999])
    axis.hlines(y, low, high, colour, linewidth=1.5)
    axis.hlines(y, first, third, colour, linewidth=7, alpha=0.6, label=label)


def _saved(figure: Figure, path: str | os.PathLike[str] | None) -> Figure:
    if path is not None:
        figure.savefig(path, dpi=150, bbox_inches="tight")
    return figure
