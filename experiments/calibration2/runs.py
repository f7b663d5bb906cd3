"""What is trained: one frozen description per run, in blocks; later blocks take rates from earlier ones' results."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from pyterrier_rescale.training.config import TrainConfig

#: Learning rates, and those that are tried first; a neighbour follows while the best is at the edge of what was tried.
RATES = (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
FIRST_RATES = RATES[1:4]
SEEDS = (0, 1, 2)
#: Small backbones, and the percentage of chosen tokens that stay as they are.
SIZES, KEPT = ("modernbert-3x128", "modernbert-4x256"), (0, 10, 25)
STARTS = ("raw", "k=16", "auto", "calibrated", "global")
ARMS = ("A", "B", "C", "D", "E", "F", "G", "G0", "H", "I")
RIVALS = ("bias x10", "bias x100", "burn-in", "long warm-up", "temperature")
#: Arm J's: the terms of queries are multiplied by their IDF when scored.
QUERY_IDF = "query IDF"
#: Logits times H**-1/4, the bias, too: the fixed rule of others (arXiv:2502.15526).
FIXED = "H^-1/4"
#: MarginMSE from BM25 and MiniLM in place of InfoNCE; no penalty for documents of at most THRESHOLD terms.
DISTILLED, MASKED = "distilled", "flops threshold"
THRESHOLD, PENALTIES = 150, (1.0, 10.0, 100.0, 1000.0)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One encoder.

    Attributes:
        backbone: its name in ``data.BACKBONES``.
        collection: that it is trained on.
        start: ``"raw"``, ``"k=<number>"``, ``"auto"``, ``"calibrated"``, ``"global"``, ``FIXED`` or ``"arm <name>"``.
        learning_rate: of everything.
        recipe: ``"plain"``, ``QUERY_IDF``, ``DISTILLED``, ``MASKED`` or one of ``RIVALS``.
        steps: of training; 0 scores the start.
        seed: of data order and of the measured sample.
        topics: ``"held-out"`` or ``"test"``.
        unseen: whether the unseen collections are scored, too.
        rate: at which calibrated terms fire.
        penalty: factor of both FLOPS weights.
        ramp: steps until they are reached; ``None``: 3/4 of the steps.
        batch_size: pairs per step.
        shift: option of ``train``.
        position_top_k: option of ``train``.
        fold: option of ``train``.
    """

    backbone: str
    collection: str
    start: str
    learning_rate: float
    recipe: str = "plain"
    steps: int = 120
    seed: int = 0
    topics: str = "held-out"
    unseen: bool = False
    rate: float = 0.03
    penalty: float = 1.0
    ramp: int | None = None
    batch_size: int = 16
    shift: float | None = None
    position_top_k: int | None = None
    fold: str | None = None

    @property
    def id(self) -> str:
        """A digest of all fields."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def label(self) -> str:
        """For progress lines: what differs from the defaults."""
        changed = [
            f"{field.name}={getattr(self, field.name)}"
            for field in dataclasses.fields(self)
            if field.default is not dataclasses.MISSING and getattr(self, field.name) != field.default
        ]
        return " ".join([self.backbone, self.collection, self.start, f"lr={self.learning_rate:g}", *changed])


class Done:
    """Finished rows, and what they choose: rates, backbones. A dry run chooses without them."""

    def __init__(self, rows: dict[str, dict[str, Any]], dry: bool = False) -> None:
        self.rows, self.dry = rows, dry

    def grid(self, run: Run) -> tuple[list[Run], float | None]:
        """Runs on held-out pairs that choose a rate, and the rate; ``None`` until the best has both neighbours."""
        if self.dry:
            return [dataclasses.replace(run, learning_rate=rate) for rate in FIRST_RATES], FIRST_RATES[0]
        twins = {
            rate: dataclasses.replace(run, learning_rate=rate, seed=0, topics="held-out", unseen=False)
            for rate in RATES
        }
        scores = {
            rate: self.rows[twin.id]["scores"][run.collection]["ndcg"]
            for rate, twin in twins.items()
            if twin.id in self.rows
        }
        wanted = set(FIRST_RATES)
        best = None
        if wanted <= set(scores):
            best = max(scores, key=scores.__getitem__)
            place = RATES.index(best)
            wanted |= set(RATES[max(0, place - 1) : place + 2])
        return [twins[rate] for rate in RATES if rate in wanted], best if wanted <= set(scores) else None

    def best_rate(self, run: Run) -> float | None:
        """The rate with the highest nDCG@10 on held-out pairs; ``None`` until it is known."""
        return self.grid(run)[1]

    def sparse_enough(self, run: Run) -> tuple[list[Run], float | None]:
        """Runs on held-out pairs, at rising penalties, until documents have about ``THRESHOLD`` terms; the penalty."""
        tried: list[Run] = []
        for penalty in PENALTIES:
            tried.append(dataclasses.replace(run, penalty=penalty, seed=0, topics="held-out", unseen=False))
            row = self.rows.get(tried[-1].id)
            if self.dry or (row and row["scores"][run.collection]["active_d"] <= 1.25 * THRESHOLD):
                return tried, penalty
            if row is None:
                return tried, None
        return tried, PENALTIES[-1]

    def best_kept(self, size: str) -> str | None:
        """The small backbone of a size with the lowest masked loss; ``None`` until all three are there."""
        names = [f"{size}-kept{kept}" for kept in KEPT]
        records = [self.rows.get(f"backbone-{name}") for name in names]
        if self.dry or any(record is None for record in records):
            return names[0] if self.dry else None
        return min(zip(names, records, strict=True), key=lambda pair: pair[1]["mask_loss"])[0]


def _grid(done: Done, runs: list[Run]) -> Iterator[Run]:
    for run in runs:
        yield from done.grid(run)[0]


def _finals(done: Done, runs: list[Run], like: Run | None = None) -> Iterator[Run]:
    """Three seeds on test topics, at each run's best rate (or that of ``like``); those without a grid wait.

    A system's seeds follow one another: with fewer than three nothing is claimed of it.
    """
    for run in runs:
        rate = done.best_rate(like or run)
        for seed in SEEDS if rate is not None else ():
            yield dataclasses.replace(run, learning_rate=rate, seed=seed, topics="test", unseen=True)


def _of(backbone: str, collection: str, starts: tuple[str, ...], **settings: Any) -> list[Run]:
    return [
        Run(backbone=backbone, collection=collection, start=start, learning_rate=FIRST_RATES[1], **settings)
        for start in starts
    ]


MAIN = _of("minilm", "scifact", STARTS)
CALIBRATED, GLOBAL, K16 = MAIN[3], MAIN[4], MAIN[1]
#: A small backbone that reads, on which a run takes a minute.
CASED_K16, CASED = _of("modernbert-cased", "vaswani", ("k=16", "calibrated"))
RIVAL_RUNS = _of("minilm", "scifact", ("k=8",)) + [
    dataclasses.replace(K16 if recipe != "temperature" else MAIN[0], recipe=recipe) for recipe in RIVALS
]


def lr(done: Done) -> Iterator[Run]:
    """Block 1."""
    return _grid(done, MAIN)


def best(done: Done) -> Iterator[Run]:
    """Block 2."""
    return _finals(done, MAIN)


def arms(done: Done) -> Iterator[Run]:
    """Block 3; arm A is ``calibrated``, which blocks 2 and 10 train, at the same rate and on the same sample."""
    for like in (CASED, CALIBRATED):
        runs = [dataclasses.replace(like, start=f"arm {name}") for name in ARMS[1:]]
        runs = [dataclasses.replace(r, position_top_k=12) if r.start == "arm H" else r for r in runs]
        yield from _finals(done, [*runs, dataclasses.replace(like, start="k=16", recipe=QUERY_IDF)], like=like)


def options(done: Done) -> Iterator[Run]:
    """Block 4: on raw heads at the rate of ``global``, on a calibrated one at its own: what is beside it has that.

    Folding is in block 10: WordPiece's entries without case have nothing to fold.
    """
    raw = MAIN[0]
    shifted, fewer = {"shift": 15.0}, {"position_top_k": 12}
    yield from _finals(done, [dataclasses.replace(raw, **shifted)], like=GLOBAL)
    yield from _finals(done, [dataclasses.replace(CALIBRATED, **fewer)], like=CALIBRATED)
    yield from _finals(done, [dataclasses.replace(raw, **o) for o in (fewer, shifted | fewer)], like=GLOBAL)


def rivals(done: Done) -> Iterator[Run]:
    """Block 5."""
    yield from _grid(done, RIVAL_RUNS)
    yield from _finals(done, RIVAL_RUNS)


def small(done: Done) -> Iterator[Run]:
    """Block 6; first the backbone on which the arms are trained, too."""
    best = [(backbone, c) for backbone in filter(None, map(done.best_kept, SIZES)) for c in ("scifact", "vaswani")]
    for backbone, collection in ((CASED.backbone, CASED.collection), *best):
        runs = _of(backbone, collection, STARTS)
        yield from _grid(done, runs)
        yield from _finals(done, runs)


def longer(done: Done) -> Iterator[Run]:
    """Block 7; the small backbone's 4,000 steps take minutes, minilm's hours."""
    yield from _grid(done, [CASED_K16, CASED])
    large, small = (K16, CALIBRATED), (CASED_K16, CASED)
    for pair, steps in ((large, 1000), (small, 1000), (small, 4000), (large, 4000)):
        for like in pair:
            yield from _finals(done, [dataclasses.replace(like, steps=steps)], like=like)


def curve(done: Done) -> Iterator[Run]:
    """Block 8; first on the small backbone."""
    yield from _grid(done, [CASED_K16, CASED])
    for k16, calibrated, collection in (
        (CASED_K16, CASED, "vaswani"), (K16, CALIBRATED, "scifact"), (K16, CALIBRATED, "medquad"),
    ):  # fmt: skip
        for steps in (0, 10, 25, 50, 120):
            for like in (k16, calibrated):
                run = dataclasses.replace(like, collection=collection, steps=steps)
                yield from _finals(done, [run], like=like)
        for like, changes in (
            (k16, [{"penalty": p} for p in (30.0, 100.0, 300.0, 1000.0)]),
            (calibrated, [{"rate": r} for r in (0.1, 0.2, 0.3)]),
        ):
            runs = [dataclasses.replace(like, collection=collection, **change) for change in changes]
            yield from _finals(done, runs, like=like)


def collapse(done: Done) -> Iterator[Run]:
    """Block 9; first on the small backbone. Without a ramp of its own a run has 3/4 of its 120 steps, which is 90."""
    starts = ("raw", "k=2", "k=16", "calibrated")
    yield from _grid(done, [CASED_K16])
    for like in (CASED_K16, K16):
        for batch_size in (16, 64):
            for ramp in (None, 10, 240):
                runs = _of(like.backbone, like.collection, starts, ramp=ramp, batch_size=batch_size)
                yield from _finals(done, runs, like=like)


def fixed(done: Done) -> Iterator[Run]:
    """Block 11."""
    for like in (CASED_K16, K16):
        runs = [dataclasses.replace(like, start=FIXED)]
        yield from _grid(done, runs)
        yield from _finals(done, runs)


def distilled(done: Done) -> Iterator[Run]:
    """Block 12."""
    runs = _of(CASED.backbone, CASED.collection, STARTS, recipe=DISTILLED)
    yield from _grid(done, runs)
    yield from _finals(done, runs)


def masked(done: Done) -> Iterator[Run]:
    """Block 13; each start at its own rate, which the small backbone's block found."""
    for plain in _of(CASED.backbone, CASED.collection, STARTS):
        rate = done.best_rate(plain)
        if rate is None:
            continue
        runs, penalty = done.sparse_enough(dataclasses.replace(plain, learning_rate=rate, recipe=MASKED))
        yield from runs
        if penalty is not None:
            yield from _finals(done, [dataclasses.replace(plain, recipe=MASKED, penalty=penalty)], like=plain)


def casing(done: Done) -> Iterator[Run]:
    """Block 10."""
    lowercased = dataclasses.replace(CASED, backbone="modernbert-lowercased")
    for run in (CASED, dataclasses.replace(CASED, fold="case"), lowercased):
        yield from _grid(done, [run])
        yield from _finals(done, [run])


BLOCKS: dict[str, Callable[[Done], Iterator[Run]]] = {
    "lr": lr, "best": best, "arms": arms, "options": options, "rivals": rivals, "small": small, "longer": longer,
    "curve": curve, "collapse": collapse, "casing": casing,
    "fixed": fixed, "distilled": distilled, "masked": masked,
}  # fmt: skip


def planned(block: str, done: Done) -> list[Run]:
    """Runs of a block that are not finished, each once; of a dry run the first few, at 2 steps."""
    runs = list({run.id: run for run in BLOCKS[block](done)}.values())
    if done.dry:
        runs = [dataclasses.replace(run, steps=min(2, run.steps)) for run in runs[:3]]
    return [run for run in runs if run.id not in done.rows and not missing_options(run)]


def missing_options(run: Run) -> list[str]:
    """Options that a run needs and ``train`` does not have yet: such runs wait."""
    needed = [name for name in ("shift", "position_top_k", "fold") if getattr(run, name) is not None]
    if run.recipe.startswith("bias x"):
        needed.append("bias_learning_rate")
    known = {field.name for field in dataclasses.fields(TrainConfig)}
    return [name for name in needed if name not in known]
