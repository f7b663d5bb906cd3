"""Speed and memory against pyterrier_splade and SparseEncoder: interleaved, equal threads, equal vectors.

    python experiments/speed/run.py encode --shapes a b c d
    python experiments/speed/run.py train --shapes bert4 c d
    python experiments/speed/run.py index --shapes a
    python experiments/speed/run.py breakdown --shapes a b c d
    python experiments/speed/run.py memory --shapes a

Every contender lives in a process of its own and works when told, one at a time, A B C B C A ...; so the machine's
drift hits all alike, and memory is each one's own, above the loaded and warm model. Models have random weights; one
bias for all terms is set so that about 220 terms fire per document. Texts are docstrings of mixed lengths, or all of
the same (--lengths equal), where padding helps nobody. A call replaces its rows (task, shape, system) in results.csv.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "true"

import pandas as pd
from contenders import NAMES, OURS, OURS_HALF, SPARSE_ENCODER, SPLADE, TRAINING, serve
from models import SHAPES, build, some_texts

HERE = Path(__file__).parent
BATCH_SIZES = (8, 16, 32, 64, 128)


class Contenders:
    """One process per contender, all loaded, one working at a time."""

    def __init__(self, task: str, names: tuple[str, ...], folder: Path, options: dict) -> None:
        context = get_context("spawn")
        self.workers = {}
        for name in names:
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs, task, name, str(folder), options), daemon=True)
            process.start()
            theirs.close()  # so that a worker that dies is noticed
            if ours.recv() != "ready":
                raise RuntimeError(f"{name} did not start")
            self.workers[name] = (ours, process)

    def __enter__(self) -> Contenders:
        return self

    def __exit__(self, *_: object) -> None:
        for pipe, process in self.workers.values():
            pipe.send("stop")
            process.join()

    def measure(self, name: str) -> dict:
        self.workers[name][0].send("go")
        return self.workers[name][0].recv()


def compare(task: str, shape: str, names: tuple[str, ...], folder: Path, options: dict, rounds: int) -> list[dict]:
    """Rows of one shape; ``times_slower`` is the median over rounds of a contender's time over ours."""
    measured: dict[str, list[dict]] = {name: [] for name in names}
    if task == "train":  # the optimizer's state stays: each measurement needs a fresh process
        for number in range(rounds):
            for name in names[number % len(names) :] + names[: number % len(names)]:
                with Contenders(task, (name,), folder, options) as contenders:
                    measured[name].append(contenders.measure(name))
    else:
        with Contenders(task, names, folder, options) as contenders:
            for number in range(rounds):
                for name in names[number % len(names) :] + names[: number % len(names)]:
                    measured[name].append(contenders.measure(name))
    key = "s_per_step" if task == "train" else "seconds"
    rows = []
    for name, values in measured.items():
        # pairwise within a round: the ratio is what survives a noisy machine
        ratios = [v[key] / o[key] for v, o in zip(values, measured[OURS], strict=True)]
        middle = statistics.median(v[key] for v in values)
        speed = {"s_per_step": middle} if task == "train" else {"docs_per_s": len(options["texts"]) / middle}
        active = {"active": values[0]["active"]} if "active" in values[0] else {}
        rows.append({
            "task": task, "shape": shape, "system": name, **speed, "times_slower": statistics.median(ratios),
            "peak_mb": max(v["mb"] for v in values), **active, "threads": options["threads"],
            "batch_size": options["batch_size"], "rounds": rounds,
        })  # fmt: skip
    return rows


def memory_rows(shape: str, folder: Path, options: dict) -> list[dict]:
    rows = []
    for batch_size in BATCH_SIZES:
        texts = some_texts(256)[: max(32, batch_size)]
        some = {**options, "texts": texts, "batch_size": batch_size}
        rows += [{**row, "task": "memory"} for row in compare("encode", shape, NAMES, folder, some, 1)]
    return rows


def draw_memory(table: pd.DataFrame, path: Path) -> None:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6, 3.6), layout="constrained")
    for name, rows in table.groupby("system", sort=False):
        axes.plot(rows["batch_size"], rows["peak_mb"], marker="o", label=name)
    axes.set(xscale="log", yscale="log", xlabel="batch size (texts)", ylabel="MB above the loaded model",
             title=f"Memory while encoding, shape ({table['shape'].iloc[0]})")  # fmt: skip
    axes.set_xticks(table["batch_size"].unique(), [str(b) for b in table["batch_size"].unique()])
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def only(names: tuple[str, ...], against: list[str] | None) -> tuple[str, ...]:
    return tuple(name for name in names if name in (OURS, *(against or names)))


def set_of_rows(table: pd.DataFrame) -> pd.MultiIndex:
    return pd.MultiIndex.from_frame(table.reindex(columns=["task", "shape", "system"]).fillna(""))


def keep(rows: list[dict], path: Path) -> None:
    """Replace the rows of the same task, shape and system."""
    table = pd.DataFrame(rows)
    if path.exists():
        old = pd.read_csv(path)
        same = set_of_rows(old).isin(set_of_rows(table))
        table = pd.concat([old[~same], table], ignore_index=True)
    table.sort_values(["task", "shape"], kind="stable").round(4).to_csv(path, index=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["encode", "train", "index", "breakdown", "memory"])
    parser.add_argument("--shapes", nargs="+", default=["a", "b"], choices=list(SHAPES))
    parser.add_argument("--against", nargs="+", choices=list(dict.fromkeys([*NAMES, OURS_HALF, *TRAINING])),
                        help="only these beside ours (encode, index, train)")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--lengths", choices=["mixed", "equal"], default="mixed", help="of texts (encode, index)")
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu", help="MB are then the GPU's")
    parser.add_argument("--models", type=Path, default=Path("runs/speed-models"))
    parser.add_argument("--out", type=Path, default=HERE / "results.csv")
    options = parser.parse_args()
    if options.steps < 3:
        parser.error(f"--steps must be at least 3, the first two of which are not counted, got {options.steps}")

    for shape in options.shapes:
        folder = options.models / shape
        if not (folder / "modules.json").exists():
            build(shape, folder)
        given = {"threads": options.threads, "batch_size": options.batch_size, "device": options.device}
        if options.task == "breakdown":
            from breakdown import breakdown

            rows = [breakdown(shape, folder, options.texts, options.batch_size, screening)
                    for screening in ("no", "bfloat16")]  # fmt: skip
        elif options.task == "memory":
            rows = memory_rows(shape, folder, given)
            draw_memory(pd.DataFrame(rows), HERE / "memory.png")
        elif options.task == "train":
            from pyterrier_rescale import load_collection

            pairs = load_collection("docstrings").train_pairs()[: options.batch_size * options.steps]
            given |= {"pairs": pairs, "steps": options.steps}
            names = only((*TRAINING, SPARSE_ENCODER), options.against)
            rows = compare("train", shape, names, folder, given, options.rounds)
        else:
            names = only((OURS, SPLADE) if options.task == "index" else (*NAMES, OURS_HALF), options.against)
            given["texts"] = some_texts(options.texts, options.lengths)
            rows = compare(options.task, shape, names, folder, given, options.rounds)
            if options.lengths == "equal":
                rows = [{**row, "task": f"{options.task}, equal lengths"} for row in rows]
        print(pd.DataFrame(rows).round(2).to_string(index=False), flush=True)
        keep(rows, options.out)


if __name__ == "__main__":
    sys.exit(main())
