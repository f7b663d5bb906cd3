"""One query at a time: our encoder against the model's plain forward pass, alone and beside a busy process.

    python experiments/speed/queries.py --shapes bert2 a c

Both in turns on the same queries, all threads; medians and 90th percentiles in milliseconds.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from models import SHAPES, build


def measured(splade, queries: list[str], seconds: float) -> str:
    encoder = splade.encoder
    tokenised = [encoder.tokenizer(query, return_tensors="pt") for query in queries]
    times: dict[str, list[float]] = {"encoder": [], "plain": []}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for query, inputs in zip(queries, tokenised, strict=True):
            start = time.perf_counter()
            splade.encode_queries([query])
            times["encoder"].append(time.perf_counter() - start)
            with torch.inference_mode():
                start = time.perf_counter()
                encoder.model(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"])
                times["plain"].append(time.perf_counter() - start)
    shown = [
        f"{name} {1000 * np.median(own[3:]):.1f} (90%: {1000 * np.percentile(own[3:], 90):.1f}) ms"
        for name, own in times.items()
    ]
    return f"{', '.join(shown)}, {np.median(times['encoder'][3:]) / np.median(times['plain'][3:]):.2f}x"


def main() -> None:
    from pyterrier_rescale import Splade, load_collection

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=["bert2", "a", "c"])
    parser.add_argument("--seconds", type=float, default=6)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    queries = load_collection("docstrings").topics()["query"].tolist()[:30]
    with tempfile.TemporaryDirectory() as folder:
        for shape in options.shapes:
            build(shape, f"{folder}/{shape}")
            splade = Splade(f"{folder}/{shape}", device="cpu")
            print(f"{shape}, alone: {measured(splade, queries, options.seconds)}", flush=True)
            busy = subprocess.Popen([sys.executable, "-c", "while True: pass"])
            try:
                print(f"{shape}, beside a busy process: {measured(splade, queries, options.seconds)}", flush=True)
            finally:
                busy.kill()
                busy.wait()


if __name__ == "__main__":
    main()
