"""Checkpoints that a killed run can trust: one counts only once it is whole, and the one before it stays until then."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import torch

from .._utils.durable import put_in_place, settle, sync

#: Written last, so that its presence marks a whole checkpoint.
_MARK = "complete"
_STATE = "module.pt"
_NAME = re.compile(r"checkpoint-(\d+)")


def whole_checkpoints(folder: Path) -> list[Path]:
    """Whole checkpoints of a run, the oldest first."""
    found = [path for path in folder.glob("checkpoint-*") if _NAME.fullmatch(path.name) and (path / _MARK).exists()]
    return sorted(found, key=lambda path: int(path.name.split("-")[1]))


def latest(folder: Path) -> Path | None:
    """The last whole checkpoint; broken ones are removed."""
    whole = whole_checkpoints(folder)
    for path in folder.glob("checkpoint-*"):
        if path not in whole:
            shutil.rmtree(path, ignore_errors=True)
    return whole[-1] if whole else None


def seal(checkpoint: Path) -> None:
    """Mark a checkpoint as whole, once all of it is on the disk, and remove older ones."""
    settle(checkpoint)
    (checkpoint / _MARK).write_text("", encoding="utf-8")
    sync(checkpoint)
    sync(checkpoint.parent)
    for older in whole_checkpoints(checkpoint.parent):
        if older != checkpoint:
            shutil.rmtree(older, ignore_errors=True)


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write the states of module and regularisers into a checkpoint folder."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / _STATE)


def load_state(folder: Path) -> dict[str, Any]:
    """What :func:`save_state` wrote, on the CPU."""
    return torch.load(folder / _STATE, map_location="cpu", weights_only=True)


class Best:
    """The best state so far by a score on a dev split, in one file that is replaced whole."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.score, self.step = float("-inf"), 0
        if path.exists():
            kept = torch.load(path, map_location="cpu", weights_only=True)
            self.score, self.step = kept["score"], kept["step"]

    def offer(self, score: float, step: int, state: dict[str, torch.Tensor]) -> bool:
        """Keep the state if its score is higher than all before."""
        if score <= self.score:
            return False
        self.score, self.step = score, step
        self.path.parent.mkdir(parents=True, exist_ok=True)
        beside = self.path.with_suffix(".new")
        torch.save({"score": score, "step": step, "state": state}, beside)
        put_in_place(beside, self.path)
        return True

    def state(self) -> dict[str, torch.Tensor] | None:
        """The state kept, or ``None``."""
        if not self.path.exists():
            return None
        return torch.load(self.path, map_location="cpu", weights_only=True)["state"]
