"""Figures of the slides, as SVG: `python notebooks/figures.py` writes them beside the slides, into the package."""

from __future__ import annotations

import tempfile
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from transformers import AutoModelForMaskedLM, AutoTokenizer

from pyterrier_rescale import Splade, calibrate, load_collection, small_backbone, train
from pyterrier_rescale.analysis.measurement import run_probe
from pyterrier_rescale.encoding.description import Description

FOLDER = Path(__file__).resolve().parent.parent / "pyterrier_rescale" / "teaching" / "lecturer" / "figures"
BLUE, RED, GREY = "#1b6ca8", "#d1495b", "#7d8597"


def main() -> None:
    """Draw all three; a minute on two cores."""
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "lecture", "font.size": 12})
    FOLDER.mkdir(exist_ok=True)
    collection = load_collection("docstrings")
    documents = [document["text"] for document in collection.corpus()]
    backbone = small_backbone("modernbert", documents, steps=400)
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(backbone), AutoTokenizer.from_pretrained(backbone)
    sample = documents[::40][:256]
    levels(model, tokenizer, sample)
    density(model, tokenizer, sample)
    collapse(backbone, collection.train_pairs()[::8])


def levels(model, tokenizer, sample: list[str]) -> None:
    """Pooled logits of a common and a rare term over texts, with the level that 3% of the texts exceed."""
    probe = run_probe(model, tokenizer, sample[:64], sample, description=Description(max_length=48))
    words = {i: token[1:] for token, i in tokenizer.get_vocab().items() if token[1:].isalpha() and len(token) > 4}
    order = sorted(words, key=lambda i: (-probe.documents.counts[i], words[i]))
    common, rare = order[5], next(i for i in order if probe.documents.counts[i] == 3)
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axis = figure.subplots()
    for term, colour in ((common, BLUE), (rare, RED)):
        values = probe.documents.pooled[:, term] + probe.bias[term]
        axis.hist(values, bins=40, color=colour, alpha=0.6, label=words[term])
        axis.axvline(np.quantile(values, 0.97), color=colour, linestyle="--")
    axis.axvline(0, color="black", linewidth=0.8)
    label = "largest logit in a text\n(dashed: the level that 3% exceed; black: where relu cuts)"
    axis.set(xlabel=label, ylabel="texts")
    axis.legend(frameon=False)
    save(figure, "levels")


def density(model, tokenizer, sample: list[str]) -> None:
    """Active terms per document before and after calibration."""
    calibrated = calibrate(model, sample, tokenizer=tokenizer).apply(model)
    figure = Figure(figsize=(6, 3), layout="constrained")
    axis = figure.subplots()
    for name, one, colour in (("raw", model, GREY), ("calibrated", calibrated, BLUE)):
        counts = np.diff(Splade(one, tokenizer=tokenizer, max_length=48).encode_docs(sample).indptr)
        axis.hist(counts, bins=np.geomspace(10, 10_000, 40), color=colour, alpha=0.7, label=name)
    axis.set(xscale="log", xlabel="active terms per document", ylabel="documents")
    axis.legend(frameon=False)
    save(figure, "density")


def collapse(backbone: Path, pairs: list[tuple[str, str]]) -> None:
    """A raw and a divided run: loss, saturation and cosine over the steps."""
    figure = Figure(figsize=(10, 3), layout="constrained")
    axes = figure.subplots(1, 3)
    options = {"batch_size": 16, "max_steps": 50, "learning_rate": 5e-4, "ramp_steps": 50, "max_length": 32,
               "monitor": "warn", "save_steps": 0, "verbose": False}  # fmt: skip
    with tempfile.TemporaryDirectory() as work:
        for name, k, colour in (("raw", None, RED), ("k = 16", 16.0, BLUE)):
            train(backbone, pairs, Path(work) / name, rescale=k, **options)
            log = pd.read_csv(Path(work) / name / "monitor.csv")
            for axis, column in zip(axes, ("loss", "saturation", "cosine"), strict=True):
                axis.plot(log["step"], log[column], color=colour, label=name)
                axis.set(title=column, xlabel="step", yscale="log" if column == "loss" else "linear")
    axes[0].legend(frameon=False)
    save(figure, "collapse")


def save(figure: Figure, name: str) -> None:
    """Write one figure, without a date, so that the same figures are the same files."""
    figure.savefig(FOLDER / f"{name}.svg", metadata={"Date": None})
    print(FOLDER / f"{name}.svg")


if __name__ == "__main__":
    main()
