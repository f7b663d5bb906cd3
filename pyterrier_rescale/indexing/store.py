"""One commit point for all that is built in a folder, as in Lucene: a manifest names the generation that counts.

::

    path/pt_meta.json     the manifest, under PyTerrier's name for an artifact's metadata
    path/write.lock       held by the process that writes
    path/g-<id>/          a generation: vectors by shard and by docno, the vocabulary, one engine's files

A build writes a new generation, flushes it, and replaces the manifest in one step. Then the former generation is
removed. So at every moment the old one or the new one is served whole, on every file system. Only generations that a
manifest has named are ever removed: a build names its own before it begins.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from .._utils.files import only_process, settle, write_whole
from .._utils.made_from import read_record

MANIFEST, LOCK = "pt_meta.json", "write.lock"
#: A folder of files that change when they are read; the manifest does not list them.
LIVE = "live"
_KEY, VERSION = "pyterrier_rescale", 4
_BESIDE = f".{MANIFEST}-"  # what `write_whole` writes first


class Manifest(NamedTuple):
    """What the manifest says."""

    artifact: dict[str, Any]  # PyTerrier's own metadata
    #: Of the generation that counts: its name, sizes of its ``files``, and what describes it; None before the first.
    current: dict[str, Any] | None
    #: By name the generations that may go: what an unfinished ``encode`` is made from, None of others.
    others: dict[str, dict[str, Any] | None]

    @property
    def unfinished(self) -> dict[str, dict[str, Any]]:
        """What ``encode`` has begun."""
        return {name: made_from for name, made_from in self.others.items() if made_from}


def read_manifest(path: Path) -> Manifest | None:
    """The manifest of a folder, None where nothing of ours is; ``ValueError`` for another version of the format."""
    artifact = read_record(path, MANIFEST) or {}
    found = artifact.pop(_KEY, None)
    if found is None:
        return None
    if found.get("version") != VERSION:
        raise ValueError(
            f"what is at {path} has format {found.get('version')}, this version reads format {VERSION}: build it anew "
            "at another path"
        )
    return Manifest(artifact, found["current"], found["others"])


def stamp(path: Path) -> tuple[int, ...] | None:
    """What tells cheaply whether the manifest is still the same file; None where there is none."""
    try:
        found = os.stat(path / MANIFEST)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def check_files(path: Path, current: Mapping[str, Any]) -> None:
    """Raise ``ValueError`` where a file of the generation that counts is missing or has another size."""
    for name, size in current["files"].items():
        file = path / current["generation"] / name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            what = "is missing" if found is None else f"has {found} bytes instead of {size}"
            raise ValueError(f"what is at {path} is damaged: {name} {what}. Build it anew with overwriting")


@contextmanager
def locked(path: Path, patience: float = 0) -> Iterator[Manifest]:
    """Hold the lock of a folder, made if need be; without locks in the file system the last of two builds counts."""
    path.mkdir(parents=True, exist_ok=True)
    with only_process(path / LOCK, patience):
        manifest = read_manifest(path)
        names = {file.name for file in path.iterdir() if not file.name.startswith(_BESIDE)}
        if manifest is None and names - {LOCK}:
            raise FileExistsError(f"{path} is not empty and nothing in it is ours: choose another path")
        manifest = manifest or Manifest({}, None, {})
        yield manifest._replace(others=_present(path, manifest))


def begin(path: Path, manifest: Manifest, made_from: dict[str, Any] | None = None) -> Path:
    """Name a new generation in the manifest, and make its folder."""
    folder = path / f"g-{uuid.uuid4().hex[:12]}"
    _write(path, manifest._replace(others={**manifest.others, folder.name: made_from}))
    folder.mkdir()
    return folder


def commit(path: Path, folder: Path, artifact: Mapping[str, Any], content: Mapping[str, Any]) -> None:
    """Flush a generation and let it count, as ``content`` describes it; then remove all others."""
    settle(folder)
    files = {
        file.relative_to(folder).as_posix(): file.stat().st_size
        for file in sorted(folder.rglob("*"))
        if file.is_file() and LIVE not in file.relative_to(folder).parts
    }
    former = read_manifest(path)
    others = dict.fromkeys(_present(path, former))
    if former.current:
        others[former.current["generation"]] = None
    others.pop(folder.name, None)
    _write(path, Manifest(dict(artifact), {"generation": folder.name, **content, "files": files}, others))
    for name in others:  # what is still open on Windows stays until the next build
        shutil.rmtree(path / name, ignore_errors=True)
    for beside in path.glob(f"{_BESIDE}*"):  # of killed builds
        beside.unlink(missing_ok=True)


@contextmanager
def building(path: Path, artifact: Mapping[str, Any], *, mode: str) -> Iterator[tuple[Path, dict[str, Any]]]:
    """A new generation to write into, and a dict to describe it in; both count once the block ends without an error."""
    with locked(path) as manifest:
        if manifest.current and mode == "create":
            how = "indexer(mode='overwrite') or encode(overwrite=True) replaces it"
            raise FileExistsError(f"something was built at {path} already: {how}; or choose another path")
        if manifest.unfinished and mode != "overwrite":
            raise FileExistsError(f"encode() has not finished at {path}: give the same call again, or overwrite it")
        folder = begin(path, manifest)
        content: dict[str, Any] = {}
        try:
            yield folder, content
            commit(path, folder, artifact, content)
        except BaseException:
            abandon(path, folder)
            raise


def abandon(path: Path, folder: Path) -> None:
    """Remove a generation that does not count, and a path that holds nothing else."""
    current = read_manifest(path).current
    if current is None or current["generation"] != folder.name:  # else it counts, and the rest was interrupted
        shutil.rmtree(folder, ignore_errors=True)
    if current is None and {file.name for file in path.iterdir()} <= {MANIFEST, LOCK}:
        shutil.rmtree(path, ignore_errors=True)


def _present(path: Path, manifest: Manifest) -> dict[str, dict[str, Any] | None]:
    return {name: made_from for name, made_from in manifest.others.items() if (path / name).exists()}


def _write(path: Path, manifest: Manifest) -> None:
    ours = {"version": VERSION, "current": manifest.current, "others": manifest.others}
    write_whole(path / MANIFEST, json.dumps({**manifest.artifact, _KEY: ours}, indent=1, ensure_ascii=False) + "\n")
