"""Processor time of a start: what the command takes until its first result, beside what the libraries take to import.

    python experiments/speed/startup.py

BERT 2 x 128 with V=8,000, queries by the model and static ones, 1,000 docstrings in an exact index. User and system
time of fresh processes with bytecode, the least of five.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

STARTS = {
    "import pyterrier": ["-c", "import pyterrier"],
    "import torch": ["-c", "import torch"],
    "transformers' BertForMaskedLM": ["-c", "from transformers import BertForMaskedLM"],
    "--help": ["-m", "pyterrier_rescale", "--help"],
    "search, static queries": ["-m", "pyterrier_rescale", "search", "static.index", "static", "parse a date"],
    "search, a model": ["-m", "pyterrier_rescale", "search", "model.index", "model", "parse a date"],
}


def prepare(folder: Path) -> None:
    from models import build, some_texts

    from pyterrier_rescale import Splade, open_index, train

    build("bert2", folder / "bert2")
    texts = some_texts(1000)
    Splade(folder / "bert2").save_pretrained(folder / "model")
    train(folder / "bert2", [(text[:40], text) for text in texts], folder / "static", queries="static", max_steps=1,
          verbose=False)  # fmt: skip
    documents = [{"docno": str(number), "text": text} for number, text in enumerate(texts)]
    for name in ("model", "static"):
        index = open_index(folder / f"{name}.index", "exact")
        (Splade(folder / name).doc_encoder() >> index.indexer()).index(documents)


def processor_time(arguments: list[str], folder: str) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        prepare(Path(folder))
        print("| start | seconds |\n| --- | --- |")
        for name, arguments in STARTS.items():
            print(f"| {name} | {min(processor_time(arguments, folder) for _ in range(5)):.2f} |", flush=True)


if __name__ == "__main__":
    main()
