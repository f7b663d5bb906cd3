"""Each contender's work, in a process of its own: encoding to toks, encoding into a Terrier index, training steps."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from models import MAX_LENGTH

OURS, SPLADE, SPARSE_ENCODER = NAMES = ("pyterrier_rescale", "pyterrier_splade", "SparseEncoder")
#: The same package with its body in bfloat16: not the same vectors, so it stands beside the comparison.
OURS_HALF = "pyterrier_rescale bf16"
#: Training that keeps less for the backward pass: system -> options of ``train``; all have the same gradients.
TRAINING = {
    OURS: {},
    f"{OURS} gradient_checkpointing=True": {"gradient_checkpointing": True},
    f"{OURS} mini_batch_size=2": {"mini_batch_size": 2},
}


class PeakGpuMemory:
    """Most memory that tensors of this process held on the GPU while open, in MB above the start."""

    def __enter__(self) -> PeakGpuMemory:
        import torch

        torch.cuda.reset_peak_memory_stats()
        self.start = torch.cuda.memory_allocated()
        return self

    def __exit__(self, *_: object) -> None:
        import torch

        self.mb = (torch.cuda.max_memory_allocated() - self.start) / 1e6


class PeakMemory:
    """Largest resident set of this process while open, in MB above the start; Linux's own high-water mark."""

    def __enter__(self) -> PeakMemory:
        Path("/proc/self/clear_refs").write_text("5")  # the mark starts anew
        self.start = self._read("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.mb = self._read("VmHWM") - self.start

    def _read(self, name: str) -> float:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(name)) * 1024 / 1e6


def serve(pipe, task: str, name: str, folder: str, options: dict) -> None:
    """The process: load, warm up, say "ready", then do the work once for every "go" and send what was measured."""
    import torch

    torch.set_num_threads(options["threads"])
    work, warm = {"encode": encoding, "index": indexing, "train": training}[task](name, folder, options)
    warm()
    pipe.send("ready")
    while pipe.recv() == "go":
        with PeakMemory() if options["device"] == "cpu" else PeakGpuMemory() as memory:
            start = time.perf_counter()
            result = work()
            seconds = time.perf_counter() - start
        # above the loaded model, where the work itself loads it
        memory.mb -= result.pop("model_mb", 0)
        pipe.send({"seconds": seconds, "mb": memory.mb, **result})


def _stage(name: str, folder: str, batch_size: int, terms: str, device: str):
    if name == SPLADE:
        from pyterrier_splade import Splade

        return Splade(folder, device=device, max_length=MAX_LENGTH).doc_encoder(batch_size=batch_size)
    from pyterrier_rescale import Splade

    dtype = "bfloat16" if name == OURS_HALF else None
    return Splade(folder, batch_size=batch_size, device=device, dtype=dtype).doc_encoder(terms=terms)


def encoding(name: str, folder: str, options: dict) -> tuple[Callable, Callable]:
    """Documents to ``toks`` of tokens and integer weights."""
    import pandas as pd

    texts, batch_size = options["texts"], options["batch_size"]
    if name == SPARSE_ENCODER:
        from sentence_transformers import SparseEncoder

        model = SparseEncoder(folder, device=options["device"])
        tokens = model.tokenizer.convert_ids_to_tokens(list(range(len(model.tokenizer))))

        def toks() -> list[dict]:
            vectors = model.encode(texts, batch_size=batch_size, show_progress_bar=False).coalesce()
            rows, columns = vectors.indices().tolist()
            made: list[dict] = [{} for _ in texts]
            for row, column, weight in zip(rows, columns, (vectors.values() * 100).int().tolist(), strict=True):
                if weight:
                    made[row][tokens[column]] = weight
            return made

        warm = lambda: model.encode(texts[:4], show_progress_bar=False)  # noqa: E731
    else:
        frame = pd.DataFrame({"docno": [str(i) for i in range(len(texts))], "text": texts})
        stage = _stage(name, folder, batch_size, "raw", options["device"])
        toks = lambda: stage(frame)["toks"].tolist()  # noqa: E731
        warm = lambda: stage(frame.head(16))  # noqa: E731
    return lambda: {"active": sum(map(len, made := toks())) / len(made)}, warm


def indexing(name: str, folder: str, options: dict) -> tuple[Callable, Callable]:
    """Documents into a Terrier index: pyterrier_splade's documented recipe, and ours."""
    import pyterrier as pt

    from pyterrier_rescale import open_index
    from pyterrier_rescale._utils.java import start_java

    start_java()
    stage = _stage(name, folder, options["batch_size"], "safe", options["device"])

    def work(texts: list[str]) -> dict:
        documents = ({"docno": str(i), "text": text} for i, text in enumerate(texts))
        with tempfile.TemporaryDirectory() as out:
            if name == SPLADE:
                (stage >> pt.IterDictIndexer(out, pretokenised=True)).index(documents, batch_size=128)
            else:
                (stage >> open_index(Path(out) / "index", "terrier").indexer()).index(documents, batch_size=2048)
        return {}

    return lambda: work(options["texts"]), lambda: work(options["texts"][:16])


def training(name: str, folder: str, options: dict) -> tuple[Callable, Callable]:
    """A few steps of InfoNCE + FLOPS; the seconds of a step are the median without the first two."""
    import numpy as np

    pairs, batch_size, steps = options["pairs"], options["batch_size"], options["steps"]
    # all imports before the measuring, and the model loaded
    from datasets import Dataset
    from sentence_transformers import SparseEncoder, SparseEncoderTrainer, SparseEncoderTrainingArguments
    from sentence_transformers.sparse_encoder.losses import SparseMultipleNegativesRankingLoss, SpladeLoss
    from transformers import TrainerCallback

    import pyterrier_rescale.training.dev_evaluation
    import pyterrier_rescale.training.fit  # noqa: F401

    if name in TRAINING:
        import pandas as pd

        from pyterrier_rescale import train

        def work() -> dict:
            with tempfile.TemporaryDirectory() as out:
                trained = train(folder, pairs, out, rescale=None, batch_size=batch_size, max_steps=steps,
                                max_length=128, monitor=False, save_steps=0, verbose=False, device=options["device"],
                                **TRAINING[name])  # fmt: skip
                stamps = pd.read_csv(Path(out) / "monitor.csv")["seconds"].tolist()
            parameters = sum(p.numel() * p.element_size() for p in trained.encoder.model.parameters())
            return {"s_per_step": statistics.median(np.diff(stamps)[1:]), "model_mb": parameters / 1e6}

        return work, lambda: None

    model = SparseEncoder(folder, device=options["device"])
    model.max_seq_length = 128
    data = Dataset.from_dict({"query": [q for q, _ in pairs], "document": [d for _, d in pairs]})
    loss = SpladeLoss(model, SparseMultipleNegativesRankingLoss(model), query_regularizer_weight=5e-4,
                      document_regularizer_weight=3e-4)  # fmt: skip
    stamps: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_, **__):
            stamps.append(time.perf_counter())

    def work() -> dict:
        with tempfile.TemporaryDirectory() as out:
            arguments = SparseEncoderTrainingArguments(
                out, max_steps=steps, per_device_train_batch_size=batch_size, report_to=[], save_strategy="no",
                logging_strategy="no", disable_tqdm=True, use_cpu=options["device"] == "cpu",
            )  # fmt: skip
            SparseEncoderTrainer(model, arguments, train_dataset=data, loss=loss, callbacks=[Clock()]).train()
        return {"s_per_step": statistics.median(np.diff(stamps)[1:])}

    # weights are mapped from the file and read when used: they are the loaded model, not the training's memory
    return work, lambda: [parameter.sum().item() for parameter in model.parameters()]
