"""Encoding and training steps against pyterrier_splade and SparseEncoder, interleaved, equal threads, equal vectors.

    python experiments/speed/run.py encode --shapes a b --rounds 5
    python experiments/speed/run.py train --shapes bert4 c --rounds 3

Every contender lives in a process of its own and works when told, one at a time, A B C A B C ...; so the machine's
drift hits all alike, and memory is each one's own. Models have random weights; one bias for all terms is set so that
about 220 terms fire per document. Texts are docstrings of mixed lengths.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from multiprocessing import get_context
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ["TOKENIZERS_PARALLELISM"] = "true"

#: name -> (family, layers, H, intermediate, heads, V)
SHAPES = {
    "a": ("bert", 6, 384, 1536, 12, 30522),
    "b": ("modernbert", 6, 384, 576, 6, 50368),
    "c": ("bert", 12, 768, 3072, 12, 30522),
    "d": ("modernbert", 22, 768, 1152, 12, 50368),
    "bert4": ("bert", 4, 256, 1024, 4, 30522),
}
CONTENDERS = ("pyterrier_rescale", "pyterrier_splade", "SparseEncoder")
ACTIVE = 220
MAX_LENGTH = 256


def texts(n: int) -> list[str]:
    from pyterrier_rescale import load_collection

    documents = [d["text"] for d in load_collection("docstrings").corpus()]
    step = max(1, len(documents) // n)
    return documents[::step][:n]


def build(shape: str, folder: Path) -> None:
    """A random model of the shape with a trained tokenizer; the bias lets ACTIVE terms fire per document."""
    import numpy as np
    import torch
    import transformers

    from pyterrier_rescale import Splade, load_collection
    from pyterrier_rescale.backbones.architectures import train_tokenizer
    from pyterrier_rescale.backbones.settings import BackboneSettings

    family, layers, hidden, intermediate, heads, vocab = SHAPES[shape]
    corpus = [d["text"] for d in load_collection("docstrings").corpus()]
    tokenizer = train_tokenizer(BackboneSettings.make(family, {"vocab_size": vocab}), corpus)
    common = {
        "vocab_size": vocab, "hidden_size": hidden, "num_hidden_layers": layers, "num_attention_heads": heads,
        "intermediate_size": intermediate, "pad_token_id": tokenizer.pad_token_id,
    }  # fmt: skip
    torch.manual_seed(0)
    if family == "bert":
        config = transformers.BertConfig(**common)
    else:
        ids = {
            "cls_token_id": tokenizer.cls_token_id, "sep_token_id": tokenizer.sep_token_id,
            "bos_token_id": tokenizer.cls_token_id, "eos_token_id": tokenizer.sep_token_id,
        }  # fmt: skip
        config = transformers.ModernBertConfig(**common, **ids)
    model = transformers.AutoModelForMaskedLM.from_config(config).eval()
    encoder = Splade(model, tokenizer=tokenizer, max_length=MAX_LENGTH).encoder
    with torch.no_grad():
        encoder.head.bias.fill_(100.0)  # all terms fire: the weights tell the pooled logits
        weights = encoder.encode(texts(48)).toarray()
        pooled = (np.expm1(weights.astype(np.float64)) - 100.0)[:, : len(tokenizer)]
        encoder.head.bias.fill_(-float(np.quantile(pooled, 1 - ACTIVE / pooled.shape[1])))
        encoder.head.bias[len(tokenizer) :] = -1e4  # pyterrier_splade fails where a row without a token fires
    Splade(model, tokenizer=tokenizer, max_length=MAX_LENGTH).save_pretrained(folder)


class PeakMemory:
    """Largest resident set of this process while open, in MB above the start."""

    def __enter__(self) -> PeakMemory:
        import psutil

        process = psutil.Process()
        self.start = self.peak = process.memory_info().rss
        self.done = threading.Event()

        def watch() -> None:
            while not self.done.wait(0.005):
                self.peak = max(self.peak, process.memory_info().rss)

        self.thread = threading.Thread(target=watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self.thread.join()
        self.mb = (self.peak - self.start) / 1e6


def encode_worker(pipe, name: str, folder: str, sample: list[str], threads: int, batch_size: int) -> None:
    import pandas as pd
    import torch

    torch.set_num_threads(threads)
    frame = pd.DataFrame({"docno": [str(i) for i in range(len(sample))], "text": sample})
    if name == "pyterrier_rescale":
        from pyterrier_rescale import Splade

        stage = Splade(folder, batch_size=batch_size, device="cpu").doc_encoder(terms="raw")
        work = lambda: stage(frame)["toks"].tolist()  # noqa: E731
        warm = lambda: stage(frame.head(4))  # noqa: E731
    elif name == "pyterrier_splade":
        from pyterrier_splade import Splade

        stage = Splade(folder, device="cpu", max_length=MAX_LENGTH).doc_encoder(batch_size=batch_size)
        work = lambda: stage(frame)["toks"].tolist()  # noqa: E731
        warm = lambda: stage(frame.head(4))  # noqa: E731
    else:
        from sentence_transformers import SparseEncoder

        model = SparseEncoder(folder, device="cpu")
        tokens = model.tokenizer.convert_ids_to_tokens(list(range(SHAPES[Path(folder).name][5])))

        def convert(vectors) -> list[dict]:
            vectors = vectors.coalesce()
            rows, columns = vectors.indices().tolist()
            weights = (vectors.values() * 100).int().tolist()
            toks = [{} for _ in range(vectors.shape[0])]
            for row, column, weight in zip(rows, columns, weights, strict=True):
                if weight:
                    toks[row][tokens[column]] = weight
            return toks

        work = lambda: convert(model.encode(sample, batch_size=batch_size, show_progress_bar=False))  # noqa: E731
        warm = lambda: model.encode(sample[:4])  # noqa: E731
    warm()
    pipe.send("ready")
    while pipe.recv() == "go":
        with PeakMemory() as memory:
            start = time.perf_counter()
            toks = work()
            seconds = time.perf_counter() - start
        pipe.send({"seconds": seconds, "mb": memory.mb, "active": sum(map(len, toks)) / len(toks)})


def gemm_rate(hidden: int, threads: int) -> float:
    """GFLOP/s of a plain fp32 product of the head's shape, best of several."""
    import torch

    torch.set_num_threads(threads)
    a, b, out = torch.randn(2048, hidden), torch.randn(hidden, 4096), torch.empty(2048, 4096)
    best = 0.0
    for _ in range(8):
        start = time.perf_counter()
        torch.mm(a, b, out=out)
        best = max(best, 2 * 2048 * hidden * 4096 / (time.perf_counter() - start) / 1e9)
    return best


def encode(shape: str, options: argparse.Namespace, folder: Path) -> list[dict]:
    context = get_context("spawn")
    sample = texts(options.texts)
    workers = {}
    for name in CONTENDERS:
        ours, theirs = context.Pipe()
        arguments = (theirs, name, str(folder), sample, options.threads, options.batch_size)
        process = context.Process(target=encode_worker, args=arguments, daemon=True)
        process.start()
        theirs.close()  # so that a worker that dies is noticed
        assert ours.recv() == "ready"
        workers[name] = (ours, process)
    measured: dict[str, list[dict]] = {name: [] for name in CONTENDERS}
    for number in range(options.rounds):
        for name in CONTENDERS[number % 3 :] + CONTENDERS[: number % 3]:
            workers[name][0].send("go")
            measured[name].append(workers[name][0].recv())
    for pipe, process in workers.values():
        pipe.send("stop")
        process.join()
    rows = []
    for name, values in measured.items():
        # pairwise within a round: the ratio is what survives a noisy machine
        ratios = [v["seconds"] / o["seconds"] for v, o in zip(values, measured[CONTENDERS[0]], strict=True)]
        seconds = statistics.median(v["seconds"] for v in values)
        rows.append({
            "task": "encode", "shape": shape, "system": name, "docs_per_s": len(sample) / seconds,
            "times_slower": statistics.median(ratios), "peak_mb": max(v["mb"] for v in values),
            "active": values[0]["active"],
        })  # fmt: skip
    return rows


def train_worker(pipe, name: str, folder: str, pairs: list, threads: int, batch_size: int, steps: int) -> None:
    """Report seconds per step (the first two left out) and peak memory above the loaded model."""
    import torch

    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as out:
        if name == "pyterrier_rescale":
            import pandas as pd

            from pyterrier_rescale import train
            from pyterrier_rescale.loading import load_backbone

            model, tokenizer = load_backbone(folder)
            with PeakMemory() as memory:
                train(model, pairs, out, tokenizer=tokenizer, rescale=None, batch_size=batch_size, max_steps=steps,
                      max_length=128, monitor=False, save_steps=0, verbose=False)  # fmt: skip
            seconds = pd.read_csv(Path(out) / "monitor.csv")["seconds"].iloc[2:].tolist()
        else:
            from datasets import Dataset
            from sentence_transformers import SparseEncoder, SparseEncoderTrainer, SparseEncoderTrainingArguments
            from sentence_transformers.sparse_encoder.losses import SparseMultipleNegativesRankingLoss, SpladeLoss
            from transformers import TrainerCallback

            model = SparseEncoder(folder, device="cpu")
            model.max_seq_length = 128
            data = Dataset.from_dict({"query": [q for q, _ in pairs], "document": [d for _, d in pairs]})
            loss = SpladeLoss(model, SparseMultipleNegativesRankingLoss(model), query_regularizer_weight=5e-4,
                              document_regularizer_weight=3e-4)  # fmt: skip
            stamps = []

            class Clock(TrainerCallback):
                def on_step_end(self, *_, **__):
                    stamps.append(time.perf_counter())

            arguments = SparseEncoderTrainingArguments(
                out, max_steps=steps, per_device_train_batch_size=batch_size, report_to=[], save_strategy="no",
                logging_strategy="no", disable_tqdm=True, use_cpu=True,
            )  # fmt: skip
            trainer = SparseEncoderTrainer(model, arguments, train_dataset=data, loss=loss, callbacks=[Clock()])
            with PeakMemory() as memory:
                trainer.train()
            seconds = [b - a for a, b in zip(stamps[1:-1], stamps[2:], strict=True)]
    pipe.send({"seconds": statistics.median(seconds), "mb": memory.mb})


def training(shape: str, options: argparse.Namespace, folder: Path) -> list[dict]:
    from pyterrier_rescale import load_collection

    context = get_context("spawn")
    pairs = load_collection("docstrings").train_pairs()[: 40 * options.batch_size]
    names = (CONTENDERS[0], CONTENDERS[2])
    measured: dict[str, list[dict]] = {name: [] for name in names}
    for number in range(options.rounds):
        for name in names if number % 2 == 0 else names[::-1]:
            ours, theirs = context.Pipe()
            arguments = (theirs, name, str(folder), pairs, options.threads, options.batch_size, options.steps)
            process = context.Process(target=train_worker, args=arguments, daemon=True)
            process.start()
            theirs.close()
            measured[name].append(ours.recv())
            process.join()
    rows = []
    for name, values in measured.items():
        ratios = [v["seconds"] / o["seconds"] for v, o in zip(values, measured[names[0]], strict=True)]
        rows.append({
            "task": "train", "shape": shape, "system": name,
            "s_per_step": statistics.median(v["seconds"] for v in values),
            "times_slower": statistics.median(ratios), "peak_mb": max(v["mb"] for v in values),
        })  # fmt: skip
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=["encode", "train"])
    parser.add_argument("--shapes", nargs="+", default=["a", "b"], choices=list(SHAPES))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--texts", type=int, default=256)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--models", type=Path, default=Path("runs/speed-models"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_name("results.jsonl"))
    options = parser.parse_args()
    import pandas as pd

    collected = []
    for shape in options.shapes:
        folder = options.models / shape
        if not (folder / "modules.json").exists():
            build(shape, folder)
        rows = (encode if options.task == "encode" else training)(shape, options, folder)
        for row in rows:
            row.update(threads=options.threads, batch_size=options.batch_size, rounds=options.rounds)
        if options.task == "encode":
            rows[0]["gemm_gflops"] = gemm_rate(SHAPES[shape][2], options.threads)
        collected += rows
        print(pd.DataFrame(rows).round(2).to_string(index=False), flush=True)
        with options.out.open("a") as out:
            out.writelines(json.dumps(row) + "\n" for row in rows)


if __name__ == "__main__":
    sys.exit(main())
