"""How much memory a process may still take: the machine's, or less where control groups (containers, jobs) say so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil

# Names of the files of a group: what limits it, what it uses, and of that the files' copies, which make room.
_VERSION_1 = (("memory.limit_in_bytes",), "memory.usage_in_bytes", "total_inactive_file")
_VERSION_2 = (("memory.max", "memory.high"), "memory.current", "inactive_file")


def free_memory(root: Path = Path("/")) -> int:
    """Bytes of RAM that this process may still take.

    Args:
        root: where ``proc`` and ``sys`` are; they hold the control groups of Linux, versions 1 and 2.
    """
    return min([psutil.virtual_memory().available, *_room_in_groups(root)])


def _room_in_groups(root: Path) -> Iterator[int]:
    """What each group of this process, and those above it, have left."""
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:  # no Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers and "memory" not in controllers.split(","):
            continue
        top, names = root / "sys/fs/cgroup", _VERSION_2
        if controllers:
            top, names = top / "memory", _VERSION_1
        # a container may see its own group as the top one, and not the path
        group = top.joinpath(*(part for part in path.split("/") if part not in ("", "..")))
        for folder in (group, *group.parents):
            if folder.is_relative_to(top):
                yield from _room(folder, *names)


def _room(folder: Path, limits: tuple[str, ...], usage: str, inactive: str) -> Iterator[int]:
    for name in limits:
        with suppress(OSError, ValueError):  # no such file, or "max"
            limit = int((folder / name).read_text())
            fields = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            yield max(0, limit - int((folder / usage).read_text()) + int(fields.get(inactive, 0)))
