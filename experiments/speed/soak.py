"""A soak: encode and search for minutes in one process with a JVM, to see whether it stays up and its vectors stay.

    python experiments/speed/soak.py --minutes 4 --malloc on off --cache default 0 16 --tokenising thread inline

runs every combination one after another, each for so many minutes in a process of its own, and prints a line for
each: what ran, how many texts, distinct shapes of products, and how it ended. A round is what ``systems()`` does to a
collection: documents of random lengths into a Terrier index, queries, Terrier's BM25 between them, now and then a
thread that encodes and ends. In every round the vectors of some fixed texts are compared bit by bit with the first.
"""

from __future__ import annotations

import argparse
import faulthandler
import itertools
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

VOCAB, HIDDEN, LAYERS, MAX_LENGTH = 30522, 128, 2, 256


def main() -> int:
    """Run the combinations that the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=4, help="of each combination")
    parser.add_argument("--malloc", nargs="+", choices=["on", "off"], default=["on"], help="our settings of malloc")
    parser.add_argument("--cache", nargs="+", default=["default"], help="ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    parser.add_argument("--tokenising", nargs="+", choices=["thread", "inline"], default=["thread"])
    parser.add_argument("--java", nargs="+", choices=["on", "off"], default=["on"])
    parser.add_argument("--isa", nargs="+", default=["default"], help="ONEDNN_MAX_CPU_ISA")
    parser.add_argument("--formats", nargs="+", default=["timed"], help="of the screen: timed, Int8, BFloat16 or none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    names = ["malloc", "cache", "tokenising", "java", "isa", "formats"]
    if options.child:
        run(SimpleNamespace(**{name: getattr(options, name)[0] for name in names}), options.minutes, options.seed)
        return 0
    failed = 0
    for number, values in enumerate(itertools.product(*(getattr(options, name) for name in names))):
        chosen = dict(zip(names, values, strict=True))
        environment = dict(os.environ)
        for name, variable in (("cache", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"), ("isa", "ONEDNN_MAX_CPU_ISA")):
            if chosen[name] != "default":
                environment[variable] = chosen[name]
        command = [sys.executable, __file__, "--child", "--minutes", str(options.minutes)]
        command += ["--seed", str(options.seed + number)]
        command += [part for name, value in chosen.items() for part in (f"--{name}", value)]
        result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
        last = result.stdout.strip().rpartition("\n")[2]
        what = " ".join(f"{name}={value}" for name, value in chosen.items())
        print(what, f"rc={result.returncode}", last, flush=True)
        failed += result.returncode != 0
    return 1 if failed else 0


def run(chosen: SimpleNamespace, minutes: float, seed: int) -> None:
    """Rounds until the time is up; prints what was done."""
    faulthandler.enable()
    import torch

    from pyterrier_rescale._utils import memory
    from pyterrier_rescale.encoding import screening, text_encoder

    if chosen.malloc == "off":
        memory._glibc = lambda: None
    if chosen.tokenising == "inline":
        text_encoder.ThreadPoolExecutor = _Inline
    if chosen.formats != "timed":
        formats = () if chosen.formats == "none" else (getattr(screening, chosen.formats),)
        screening._fast_formats = lambda width: formats
    shapes: set[tuple[int, ...]] = set()
    products = _counted(screening, shapes)
    done = SimpleNamespace(rounds=0, texts=0)
    with tempfile.TemporaryDirectory() as folder:
        splade, words = make_encoder(seed)
        rng = random.Random(seed)
        fixed = some_texts(random.Random(1), words, 40)
        first = splade.encode_docs(fixed)
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end:
            one_round(splade, rng, words, Path(folder) / str(done.rounds), chosen.java == "on", done)
            again = splade.encode_docs(fixed)
            if (again != first).nnz:
                raise SystemExit(f"round {done.rounds}: other vectors than at first")
            done.rounds += 1
    used = [f.__name__ for f in screening._fast_formats(HIDDEN)]
    print(
        f"{done.rounds} rounds, {done.texts} texts, {products[0]} screening products of {len(shapes)} shapes "
        f"in {used}, {torch.get_num_threads()} threads"
    )


def one_round(
    splade: object, rng: random.Random, words: list[str], folder: Path, java: bool, done: SimpleNamespace
) -> None:
    """What ``systems()`` and ``pt.Experiment`` do to one small collection, and a thread that encodes and ends."""
    documents = [
        {"docno": str(n), "text": text} for n, text in enumerate(some_texts(rng, words, rng.randint(40, 80)))
    ]
    queries = some_texts(rng, documents[0]["text"].split(), 12, longest=12)
    done.texts += len(documents) + len(queries)
    if java:
        search(splade, documents, queries, folder)
    else:
        splade.encode_docs([document["text"] for document in documents])
        splade.encode_queries(queries)
    for turn in range(20):  # few texts at a time: other shapes each time
        texts = some_texts(rng, words, rng.randint(8, 20))
        done.texts += len(texts)
        if turn % 4:
            splade.encode_docs(texts)
        else:
            thread = threading.Thread(target=splade.encode_docs, args=(texts,))
            thread.start()
            thread.join()


def search(splade: object, documents: list[dict], queries: list[str], folder: Path) -> None:
    """Two Terrier indexes, of the encoder and of the words, and a search in each."""
    import pandas as pd
    import pyterrier as pt

    from pyterrier_rescale import systems
    from pyterrier_rescale._utils.java import start_java

    start_java()
    topics = pd.DataFrame({"qid": [str(n) for n in range(len(queries))], "query": queries})
    bm25_index = pt.IterDictIndexer(str(folder / "bm25")).index(iter(documents))
    bm25 = pt.terrier.Retriever(bm25_index, wmodel="BM25")
    for half in range(2):  # BM25 between encodings
        pipeline = systems({"one": splade}, documents, folder / f"splade{half}", engine="terrier")["one"]
        assert len(bm25(topics))
        pipeline(topics)


def make_encoder(seed: int) -> tuple[object, list[str]]:
    """A BERT of random weights with few open terms per text, and the words of its vocabulary."""
    import torch
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    from pyterrier_rescale import Splade

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = ["".join(letters) for letters in itertools.islice(itertools.product("abcdefghij", repeat=5), VOCAB - 5)]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(special + words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=MAX_LENGTH,
    )  # fmt: skip
    torch.manual_seed(seed)
    config = transformers.BertConfig(
        vocab_size=VOCAB, hidden_size=HIDDEN, num_hidden_layers=LAYERS, num_attention_heads=4,
        intermediate_size=4 * HIDDEN,
    )  # fmt: skip
    model = transformers.AutoModelForMaskedLM.from_config(config).eval()
    splade = Splade(model, tokenizer=tokenizer, max_length=MAX_LENGTH)
    head = splade.encoder.head
    with torch.no_grad():
        head.bias.fill_(100.0)  # all terms fire: the weights tell the pooled logits
        pooled = torch.from_numpy(splade.encode_docs(some_texts(random.Random(0), words, 16)).toarray()).expm1() - 100
        head.bias.fill_(-float(pooled.flatten().quantile(0.99)))
    return splade, words


def some_texts(rng: random.Random, words: list[str], count: int, longest: int = MAX_LENGTH + 20) -> list[str]:
    """Texts of lengths from 1 to ``longest`` words, more short ones than long ones."""
    return [" ".join(rng.choices(words, k=int(longest ** rng.random()))) for _ in range(count)]


def _counted(screening: object, shapes: set[tuple[int, ...]]) -> list[int]:
    """Count the screening products and note their shapes."""
    from pyterrier_rescale.encoding import blocks

    product, count = blocks.multiply, [0]

    def multiply(rows, columns, out):  # noqa: ANN001, ANN202
        if rows.dtype != out.dtype or str(rows.dtype) == "torch.bfloat16":
            count[0] += 1
            shapes.add((*rows.shape, columns.shape[1]))
        return product(rows, columns, out)

    blocks.multiply = multiply
    return count


class _Inline:
    """In place of a ThreadPoolExecutor: runs what is submitted at once, in the same thread."""

    def __init__(self, max_workers: int) -> None:
        self.max_workers = max_workers

    def __enter__(self) -> _Inline:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def submit(self, function, *arguments):  # noqa: ANN001, ANN202
        value = function(*arguments)
        return SimpleNamespace(result=lambda: value)


if __name__ == "__main__":
    sys.exit(main())
