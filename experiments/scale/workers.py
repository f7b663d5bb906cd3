"""Encoding into a folder of vectors by one process, by two local workers and by Ray, in turns, on this machine.

    python experiments/scale/workers.py --documents 4096 --ray

A BERT of 4 x 256 with V=30,522 and random weights (bert4 of experiments/speed), docstrings; one process takes all
cores, workers divide them. Documents per second of the whole call, starting the workers and writing the shards
included, and once every worker has written its first shard, as in a collection of millions; memory is the largest
resident set of a process that encodes.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
import threading
import time
import warnings
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "speed"))

import psutil
from models import build, some_texts


class LargestProcess:
    """Resident MB of the largest process below this one, or of this one ``alone``, while the block runs."""

    def __init__(self, alone: bool) -> None:
        self.alone = alone

    def __enter__(self) -> LargestProcess:
        self.mb, self._done = 0.0, threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._done.wait(0.2):
            own = psutil.Process()
            for process in [own] if self.alone else own.children(recursive=True):
                try:
                    self.mb = max(self.mb, process.memory_info().rss / 1e6)
                except psutil.Error:
                    continue

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def steady(folder: Path, workers: int, documents: int) -> float:
    """Documents per second between the first shard of the last worker to start and the end."""
    times = sorted(shard.stat().st_mtime for shard in folder.rglob("*.parquet"))
    return documents / len(times) * (len(times) - workers) / (times[-1] - times[workers - 1])


def main() -> None:
    from pyterrier_rescale import Splade, encode

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--ray", action="store_true", help="a local Ray of as many workers, too")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    texts = some_texts(options.documents)
    documents = [{"docno": f"d{i}", "text": text} for i, text in enumerate(texts)]
    cores = os.cpu_count() or 1
    kinds = {"one process": {}, f"{cores} workers": {"workers": cores}}
    if options.ray:
        kinds[f"Ray, {cores} workers"] = {"workers": cores, "ray": True}
    rates: dict[str, list[tuple[float, float]]] = {kind: [] for kind in kinds}
    with tempfile.TemporaryDirectory() as folder:
        build("bert4", Path(folder) / "model")
        splade = Splade(f"{folder}/model", device="cpu")
        for turn in range(options.rounds):
            for number, (kind, given) in enumerate(kinds.items()):
                out = Path(folder) / f"{turn}-{number}"
                start = time.perf_counter()
                with LargestProcess(alone=not given) as largest:
                    encode(splade, documents, out, shard_size=250, verbose=False, **given)
                whole = len(documents) / (time.perf_counter() - start)
                rates[kind].append((whole, steady(out, given.get("workers", 1), len(documents))))
                print(f"{kind}: {whole:.1f} documents/s, {rates[kind][-1][1]:.1f} once all have started, "
                      f"{largest.mb:,.0f} MB", flush=True)  # fmt: skip
    for column, what in enumerate(("of the whole call", "once all have started")):
        alone = statistics.median(rate[column] for rate in rates["one process"])
        for kind, own in rates.items():
            print(f"{kind}: {statistics.median(rate[column] for rate in own) / alone:.2f}x one process, {what}")


if __name__ == "__main__":
    main()
