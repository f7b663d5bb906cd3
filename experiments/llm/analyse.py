"""Tables of the study of SmolLM2, from results.jsonl: python experiments/llm/analyse.py    # writes tables.md"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
from run import ARMS, ATTENTIONS, COLLECTIONS, HERE, RATES, SEEDS, STEPS, Run, finished

sys.path.append(str(HERE.parent / "calibration2"))
from crossed import difference  # noqa: E402

#: (arm, attention) against another: the questions of plan.md.
PAIRS = (
    *((("term", attention), ("global", attention)) for attention in ATTENTIONS),
    *((("term, first left out", attention), ("term", attention)) for attention in ATTENTIONS),
    *(((arm, "causal"), (arm, "bidirectional")) for arm in ARMS[3:]),
)


def markdown(lines: list[dict[str, Any]]) -> str:
    """A table of rows."""
    if not lines:
        return "(no runs yet)"
    cells = [list(lines[0]), ["---"] * len(lines[0]), *(map(str, line.values()) for line in lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in cells)


def score(row: dict, collection: str, what: str = "ndcg") -> str:
    """A figure of a run, or nothing where it was stopped."""
    found = row["scores"].get(collection, {}).get(what)
    return "" if found is None else f"{found:.3f}" if what == "ndcg" else f"{found:,.0f}"


def start(rows: dict[str, dict]) -> list[dict[str, Any]]:
    """Before training, and the loss of the first step of training."""
    lines = []
    for arm in ARMS:
        for attention in ATTENTIONS:
            row = rows.get(Run("start", arm, attention).id)
            if row is None:
                continue
            trained = rows.get(Run("rates", arm, attention, STEPS["rates"], RATES[0]).id)
            loss = "" if trained is None else f"{trained['dynamics']['loss'][0]:,.2f}"
            line = {"arm": arm, "attention": attention, "k": f"{row['k']:.1f}", "loss of the first batch": loss}
            line["terms per document"] = score(row, "scifact", "active_d")
            line["std of random scores"] = f"{row['scores']['scifact']['random_score_std']:,.1f}"
            lines.append(line | {name: score(row, name) for name in COLLECTIONS})
    return lines


def rates(rows: dict[str, dict]) -> list[dict[str, Any]]:
    """Held-out nDCG@10, the last loss and terms at each rate."""
    lines = []
    for arm in ARMS:
        for attention in ATTENTIONS:
            line = {"arm": arm, "attention": attention}
            for rate in RATES:
                row = rows.get(Run("rates", arm, attention, STEPS["rates"], rate).id)
                shown = None
                if row and row.get("collapsed"):
                    shown = f"stopped at step {row['dynamics']['step'][-1]:.0f}"
                elif row:
                    last = row["dynamics"]["loss"][-1]
                    shown = f"{score(row, 'held-out')} ({last:,.2f}; {score(row, 'held-out', 'active_d')})"
                line[f"{rate:g}"] = shown or ""
            if any(line[f"{rate:g}"] for rate in RATES):
                lines.append(line)
    return lines


def of_cell(rows: dict[str, dict], arm: str, attention: str, block: str = "final") -> list[dict]:
    """The runs of a cell that are finished, by seed."""
    found = [rows.get(Run(block, arm, attention, STEPS[block], None, seed).id) for seed in SEEDS]
    return [row for row in found if row is not None]


def final(rows: dict[str, dict], block: str = "final") -> list[dict[str, Any]]:
    """Means over seeds."""
    lines = []
    for arm in ARMS:
        for attention in ATTENTIONS:
            runs = of_cell(rows, arm, attention, block)
            if not runs:
                continue
            stopped = [f"{row['dynamics']['step'][-1]:.0f}" for row in runs if row.get("collapsed")]
            line = {"arm": arm, "attention": attention, "rate": f"{runs[0]['rate']:g}", "seeds": len(runs)}
            line["stopped at step"] = ", ".join(stopped)
            runs = [row for row in runs if not row.get("collapsed")]
            for name, form in (("active_d", ",.0f"), ("ndcg", ".3f")):
                for collection in COLLECTIONS[:1] if name == "active_d" else COLLECTIONS:
                    values = [row["scores"][collection][name] for row in runs]
                    head = "terms per document" if name == "active_d" else collection
                    line[head] = format(np.mean(values), form) if values else ""
                    if name == "ndcg" and len(values) > 1:
                        line[head] += f" ± {np.std(values, ddof=1):.3f}"
            lines.append(line)
    for name in ("tokens x IDF", "BM25 (Terrier)"):
        found = {c: rows[f"free|{c}"]["rows"][name] for c in COLLECTIONS if f"free|{c}" in rows}
        if found and lines:
            line = dict.fromkeys(lines[0], "") | {"arm": name}
            line |= {c: f"{figures['ndcg']:.3f}" for c, figures in found.items()}
            lines.append(line)
    return lines


def differences(rows: dict[str, dict]) -> list[dict[str, Any]]:
    """One arm minus another, seeds and topics crossed."""
    lines = []
    for first, second in PAIRS:
        line: dict[str, Any] = {"difference": " - ".join(f"{arm}, {attention}" for arm, attention in (first, second))}
        for name in COLLECTIONS:
            pairs = [
                np.subtract(a["scores"][name]["per_query"], b["scores"][name]["per_query"])
                for a, b in zip(of_cell(rows, *first), of_cell(rows, *second), strict=False)
                if name in a["scores"] and name in b["scores"]
            ]
            line[name] = ""
            if pairs:
                found = difference(np.array(pairs))
                interval = "" if np.isnan(found.p) else f" [{found.low:+.3f}, {found.high:+.3f}]"
                line[name] = f"{found.mean:+.3f}{interval}"
        if any(line[name] for name in COLLECTIONS):
            lines.append(line)
    return lines


def main() -> None:
    """Write tables.md beside this file."""
    rows = finished(HERE / "results.jsonl")
    longer = [line for line in final(rows, "longer") if line["seeds"]]
    parts = {
        "Before training": start(rows),
        f"Rates: held-out nDCG@10 after {STEPS['rates']} steps (last loss; terms per document)": rates(rows),
        f"After {STEPS['final']} steps: nDCG@10": final(rows),
        "Differences, with 95% intervals over topics and seeds": differences(rows),
        f"After {STEPS['longer']} steps": longer,
    }
    text = "\n\n".join(f"## {title}\n\n{markdown(lines)}" for title, lines in parts.items())
    Path(HERE / "tables.md").write_text(f"# Tables of the study of SmolLM2\n\nWritten by `analyse.py`.\n\n{text}\n")


if __name__ == "__main__":
    main()
