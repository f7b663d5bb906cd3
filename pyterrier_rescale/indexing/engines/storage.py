"""Index folders that are whole or not there: built beside, then renamed; metadata and file sizes checked on opening."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.extensions import ExtensionArray

META_FILE = "pt_meta.json"  # PyTerrier's own name for an artifact's metadata
META_KEY = "pyterrier_rescale"
DOCNOS_FILE = "docnos.txt"
RANKS_FILE = "docno_ranks.npy"
_LOCK = ".lock"
_OLD = ".old"


def partial_path(path: Path) -> Path:
    """Where the index that will be at `path` is built."""
    return _beside(path, ".partial")


def read_meta(path: Path) -> dict | None:
    """Our part of the metadata of the index at `path`; None if there is no index of ours."""
    try:
        text = (path / META_FILE).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return json.loads(text).get(META_KEY)
    except (json.JSONDecodeError, AttributeError) as error:
        raise ValueError(f"the index at {path} is damaged: {META_FILE} is not readable ({error})") from error


def damage(path: Path, meta: dict) -> str | None:
    """What is wrong with the index's files, by the sizes they were built with; None if nothing is."""
    for name, size in meta["files"].items():
        file = path / name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            return f"{name} is missing" if found is None else f"{name} has {found} bytes instead of {size}"
    return None


def describe_absence(path: Path) -> str:
    """Why nothing can be served from `path`: no index, an unfinished one, or something else's folder."""
    if path.exists() and not path.is_dir():
        return f"{path} is not a folder"
    if path.is_dir() and any(path.iterdir()):
        return (
            f"the folder {path} holds no index written by pyterrier_rescale, or an incomplete one: its scale and "
            "document count are unknown. (A Terrier index built elsewhere: pt.terrier.TerrierIndex(path).tf().)"
        )
    if partial_path(path).is_dir():
        return f"the index at {path} was not finished (what an interrupted run left is in {partial_path(path)})"
    if _beside(path, _OLD).is_dir():
        return f"the index at {path} was being replaced when the run was interrupted: the former one is in {path}{_OLD}"
    return f"there is no index at {path}"


@contextlib.contextmanager
def building(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder beside `path` to build in; becomes `path` when the block ends without an exception, else is removed.

    What a killed run left is removed by the next one.

    Raises:
        FileExistsError: something is at `path` and `overwrite` is False, or it is not an index of ours.
        RuntimeError: another process is building this index now.
    """
    check_vacant(path, overwrite=overwrite)
    partial = partial_path(path)
    partial.mkdir(parents=True, exist_ok=True)
    with _locked(partial):
        _clear(partial)
        try:
            yield partial
            (partial / _LOCK).unlink(missing_ok=True)
            _replace(partial, path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


def check_vacant(path: Path, *, overwrite: bool) -> None:
    """Raise FileExistsError unless an index may be written at `path`."""
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if read_meta(path) is None:
        raise FileExistsError(f"{path} exists and is no index of pyterrier_rescale; choose another path")
    if not overwrite:
        raise FileExistsError(f"there is an index at {path} already; use indexer(mode='overwrite') to replace it")


def write_meta(folder: Path, artifact: dict, meta: dict) -> None:
    """Write the metadata, the last file of an index; it records the sizes of all others."""
    files = {
        str(f.relative_to(folder)): f.stat().st_size
        for f in sorted(folder.rglob("*"))
        if f.is_file() and f.name not in (_LOCK, META_FILE)
    }
    content = {**artifact, META_KEY: {**meta, "files": files}}
    with open(folder / META_FILE, "w", encoding="utf-8") as out:
        json.dump(content, out, indent=1)
        out.flush()
        os.fsync(out.fileno())


def write_docnos(folder: Path, docnos: list[str]) -> None:
    """Store the docnos by document number, and each one's place in docno order (which breaks ties of scores)."""
    with open(folder / DOCNOS_FILE, "w", encoding="utf-8", newline="\n") as out:
        out.writelines(docno + "\n" for docno in docnos)
    ranks = np.empty(len(docnos), dtype=np.int32)
    ranks[sorted(range(len(docnos)), key=docnos.__getitem__)] = np.arange(len(docnos), dtype=np.int32)
    np.save(folder / RANKS_FILE, ranks)


def read_docnos(folder: Path) -> tuple[ExtensionArray, np.ndarray]:
    """(docnos (N,) as pandas holds str, ranks (N,) int32), both by document number."""
    with open(folder / DOCNOS_FILE, encoding="utf-8", newline="\n") as file:
        docnos = file.read().split("\n")[:-1]
    return pd.Series(docnos, dtype=None if docnos else object).array, np.load(folder / RANKS_FILE)


def _beside(path: Path, suffix: str) -> Path:
    path = Path(os.path.abspath(path))  # "." has no name of its own
    return path.with_name(path.name + suffix)


def _replace(partial: Path, path: Path) -> None:
    if not path.exists():
        os.rename(partial, path)
        return
    if not any(path.iterdir()):
        path.rmdir()
        os.rename(partial, path)
        return
    old = _beside(path, _OLD)
    shutil.rmtree(old, ignore_errors=True)
    os.rename(path, old)
    os.rename(partial, path)
    shutil.rmtree(old)


def _clear(folder: Path) -> None:
    for entry in folder.iterdir():
        if entry.name == _LOCK:
            continue
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Hold the folder's lock, which the system lets go when a process dies; no lock where the system has no flock."""
    with open(folder / _LOCK, "w") as lock:
        try:
            import fcntl
        except ImportError:
            yield
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise RuntimeError(f"another process is building in {folder}; wait for it or stop it") from error
        yield
