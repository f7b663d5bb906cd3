"""What is run: one frozen description per run, in blocks, the most telling runs first."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

FAMILIES = ("bert", "modernbert", "roberta")
STARTS: tuple[Any, ...] = ("raw", 16.0, "auto", "calibrated")
#: k = 1 is "raw". Below 1 the head is inflated: W x f and then / k is W / (k / f), bit for bit for powers of two.
GRID = (0.25, 2.0, 1 / 16, 4.0, 8.0, 32.0, 64.0, 16.0)
TRAINED_ON = ("vaswani", "scifact")
UNSEEN = ("nfcorpus", "cranfield")


@dataclass(frozen=True, kw_only=True)
class Run:
    """One encoder: a backbone, a start, a training; fields are what the study varies.

    Attributes:
        family: of the small backbone.
        collection: that it is trained and scored on.
        start: ``"raw"``, a k, ``"auto"``, ``"calibrated"`` or ``"learned"``.
        steps: of SPLADE training; 0 scores the start itself.
        seed: of backbone, data order and dropout.
        offset: ``"term"``, ``"global"`` or ``"none"``, of calibrated starts.
        centre: whether a calibrated W is centred.
        rate: share of documents in which a calibrated term fires.
        unseen: whether it is scored on the unseen collections, too.
    """

    family: str
    collection: str
    start: Any
    steps: int = 250
    seed: int = 0
    layers: int = 3
    hidden: int = 128
    offset: str = "term"
    centre: bool = True
    rate: float = 0.03
    placement: str = "decoder"
    lowercase: bool = True
    penalty: float = 1.0
    unseen: bool = False

    @property
    def id(self) -> str:
        """A digest of all fields."""
        return hashlib.sha256(json.dumps(dataclasses.asdict(self), sort_keys=True).encode()).hexdigest()[:12]

    @property
    def start_name(self) -> str:
        """The start as typed: a word, or k."""
        return f"{self.start:g}" if isinstance(self.start, float) else self.start

    @property
    def label(self) -> str:
        """For progress lines."""
        changed = [
            f"{field.name}={getattr(self, field.name)!r}"
            for field in dataclasses.fields(self)
            if field.default is not dataclasses.MISSING
            and field.name not in ("seed", "unseen")
            and getattr(self, field.name) != field.default
        ]
        start = f"k={self.start_name}" if isinstance(self.start, float) else self.start
        return " ".join([self.collection, self.family, start, f"seed {self.seed}", *changed])


def small() -> Iterator[Run]:
    """The README's headline: one collection, two backbones, three seeds; under half an hour on two cores."""
    for seed in range(3):
        for family in ("bert", "modernbert"):
            for start in STARTS:
                yield Run(family=family, collection="vaswani", start=start, seed=seed, unseen=start != "raw")


def grid() -> Iterator[Run]:
    """Dose and response: k, from a head inflated 16 times to one divided by 64."""
    for start in (*GRID, "raw"):
        for family in ("modernbert", "bert"):
            yield Run(family=family, collection="vaswani", start=start)


def core() -> Iterator[Run]:
    """The k beside 16 that does best in the grid, with more seeds."""
    for seed in range(1, 5):
        for family in ("bert", "modernbert"):
            yield Run(family=family, collection="vaswani", start=8.0, seed=seed)


def headline() -> Iterator[Run]:
    """Families x starts x seeds x collections; seeds are added collection by collection."""
    for collection, seed in [(collection, seed) for collection in TRAINED_ON for seed in range(5)]:
        for family in FAMILIES if seed == 0 else FAMILIES[:2]:
            for start in STARTS:
                yield Run(family=family, collection=collection, start=start, seed=seed, unseen=start != "raw")


def sparsity() -> Iterator[Run]:
    """Effectiveness against sparsity: the regulariser from a tenth to a hundred times."""
    for starts in ((16.0, "calibrated"), ("raw", "auto")):
        for penalty in (10.0, 100.0, 30.0, 3.0, 0.1):
            for start in starts:
                yield Run(family="modernbert", collection="vaswani", start=start, penalty=penalty)


def offsets() -> Iterator[Run]:
    """The offset: per term or one for all, at which rate terms fire; each correction without the other."""
    yield Run(family="modernbert", collection="vaswani", start="calibrated", centre=False)
    yield Run(family="modernbert", collection="vaswani", start="calibrated", offset="none")
    yield Run(family="modernbert", collection="vaswani", start="calibrated", offset="global")
    for rate in (0.005, 0.01, 0.1):
        yield Run(family="modernbert", collection="vaswani", start="calibrated", rate=rate)


def duration() -> Iterator[Run]:
    """Before training, and after 50 and 1,000 steps."""
    for steps in (0, 50, 1000):
        for start in (16.0, "calibrated", "auto", "raw"):
            yield Run(
                family="modernbert", collection="vaswani", start=start, steps=steps, unseen=start != "raw"
            )  # fmt: skip


def others() -> Iterator[Run]:
    """Learned k, the norm's placement, a cased vocabulary, a larger backbone, a third collection."""
    for start in (16.0, "calibrated", "raw"):
        yield Run(family="modernbert", collection="vaswani", start=start, lowercase=False)
    yield Run(family="modernbert", collection="vaswani", start="learned")
    yield Run(family="modernbert", collection="vaswani", start=16.0, placement="norm")
    for start in (16.0, "calibrated", "raw", "auto"):
        yield Run(family="modernbert", collection="vaswani", start=start, layers=4, hidden=256)
    for start in (16.0, "calibrated", "raw", "auto"):
        yield Run(family="modernbert", collection="medquad", start=start)


BLOCKS = {
    "small": small, "grid": grid, "core": core, "headline": headline, "sparsity": sparsity, "offsets": offsets,
    "duration": duration, "others": others,
}  # fmt: skip


def planned(blocks: list[str]) -> list[tuple[str, Run]]:
    """Runs of blocks, each once, in order: (first block that names it, run)."""
    seen: dict[str, tuple[str, Run]] = {}
    for block in blocks:
        for run in BLOCKS[block]():
            # a run of another block may be the same but for the unseen collections
            twin = dataclasses.replace(run, unseen=True)
            if run.id not in seen and twin.id not in seen:
                seen[run.id] = (block, run)
    return list(seen.values())
