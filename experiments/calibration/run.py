"""The calibration study: raw, divided, auto and calibrated heads over backbones, collections, seeds and settings.

    python experiments/calibration/run.py --collections COLLECTIONS --blocks small          # the README's headline
    python experiments/calibration/run.py --collections COLLECTIONS --hours 6               # everything
    python experiments/calibration/analyse.py                                               # tables and figures

COLLECTIONS is a folder of BEIR folders: vaswani, scifact, medquad, nfcorpus, cranfield. A run that is finished stands
as one line in results.jsonl and is not run again; interrupt and go on as you like.
"""

from __future__ import annotations

import argparse
import dataclasses
import fcntl
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from one_run import Study, bm25
from plan import BLOCKS, TRAINED_ON, UNSEEN, planned

HERE = Path(__file__).parent


def finished(path: Path) -> dict[str, dict]:
    """Rows by id; a line cut off by a kill is dropped."""
    rows = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            continue
        rows[row["id"]] = row
    return rows


def append(path: Path, row: dict) -> None:
    """One line at once, safe beside another process."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(row) + "\n")


def main() -> None:
    """Carry out what is planned and not finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collections", type=Path, required=True)
    parser.add_argument("--blocks", nargs="+", choices=list(BLOCKS), default=list(BLOCKS))
    parser.add_argument("--starts", nargs="+", help="only these: raw, 16, auto, calibrated, learned")
    parser.add_argument("--no-unseen", action="store_true", help="score on the collection that is trained on alone")
    parser.add_argument("--hours", type=float, help="start no run after this time")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--part", default="1/1", help="i/n: every n-th run, for several processes")
    parser.add_argument("--out", type=Path, default=HERE / "results.jsonl")
    parser.add_argument("--cache", type=Path, default=Path("runs/calibration-backbones"))
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)

    torch.set_num_threads(options.threads)
    study = Study(options.collections, options.cache)
    share, parts = map(int, options.part.split("/"))
    todo = planned(options.blocks)[share - 1 :: parts]
    if options.starts:
        unknown = set(options.starts) - {run.start_name for _, run in planned(list(BLOCKS))}
        if unknown:
            parser.error(f"--starts: no run starts from {', '.join(sorted(unknown))}")
        todo = [(block, run) for block, run in todo if run.start_name in options.starts]
    if options.no_unseen:
        done = finished(options.out)
        todo = [(block, run if run.id in done else dataclasses.replace(run, unseen=False)) for block, run in todo]
    begun, took = time.monotonic(), []
    for name in dict.fromkeys([*TRAINED_ON, *UNSEEN, *(run.collection for _, run in todo)]):
        if f"bm25-{name}" not in finished(options.out) and share == 1:
            append(options.out, {"id": f"bm25-{name}", "scores": {name: bm25(study.collection(name))}})
    for number, (block, run) in enumerate(todo, start=1):
        if run.id in finished(options.out):
            continue
        if options.hours and time.monotonic() - begun > options.hours * 3600:
            print("time is up; call again to go on")
            break
        start = time.monotonic()
        row = study.carry_out(run)
        append(options.out, row)
        took.append(time.monotonic() - start)
        left = sum(r.id not in finished(options.out) for _, r in todo[number:]) * sum(took) / len(took)
        score = row["scores"][run.collection]
        print(
            f"{number}/{len(todo)} {block}: {run.label}: nDCG@10 {score['ndcg']:.3f}, {score['active_d']:.0f} terms, "
            f"k {row['k']:.3g}, {took[-1]:.0f} s, about {left / 60:.0f} min left",
            flush=True,
        )


if __name__ == "__main__":
    sys.exit(main())
