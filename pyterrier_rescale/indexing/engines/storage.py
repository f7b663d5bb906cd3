"""The files of an index that all engines share: the manifest, written last, and the docnos."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
from pandas.api.extensions import ExtensionArray

from ..._utils.durable import sync, write_whole

META_FILE = "pt_meta.json"  # PyTerrier's own name for an artifact's metadata
META_KEY = "pyterrier_rescale"
DOCNOS_FILE = "docnos.txt"
RANKS_FILE = "docno_ranks.npy"
# Files that engines and file managers add to an index folder by themselves.
_ADDED = {
    "terrier": re.compile(r"data\.(properties|meta|inverted|lexicon|document|direct)[\w.-]*"),
    "pisa": re.compile(r"(inv|fwd)\.(batch|docs|freqs|sizes|documents|doclex|terms|termlex)[\w.-]*|quantized\.[\w.-]+"),
}
_HIDDEN = (".nfs", ".DS_Store", "._", "Thumbs.db")

Stamp = tuple[int, int, int, int]


def read_meta(path: Path) -> dict | None:
    """Our part of the manifest of the index at `path`; None if there is no index of ours."""
    try:
        text = (path / META_FILE).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return json.loads(text).get(META_KEY)
    except (ValueError, AttributeError) as error:
        raise ValueError(f"the index at {path} is damaged: {META_FILE} is not readable ({error})") from error


def generation(path: Path) -> str | None:
    """What differs from one build at `path` to the next; None where no index of ours is."""
    meta = read_meta(path)
    return None if meta is None else meta.get("generation", "")


def stamp(path: Path) -> Stamp | None:
    """What tells cheaply whether the manifest is still the same file; None where there is none."""
    try:
        found = os.stat(path / META_FILE)
    except (FileNotFoundError, NotADirectoryError):
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_size


def damage(path: Path, meta: dict) -> str | None:
    """What is wrong with the index's files, by the sizes they were built with; None if nothing is."""
    for name, size in meta["files"].items():
        file = path / name
        try:
            found = file.stat().st_size if file.is_file() else None
        except FileNotFoundError:
            found = None
        if found != size:
            return f"{name} is missing" if found is None else f"{name} has {found} bytes instead of {size}"
    return None


def check_vacant(path: Path, *, overwrite: bool) -> str | None:
    """The generation of the index at `path` that is to be replaced; None: nothing is there, or an empty folder.

    Raises:
        FileExistsError: something is there that may not be replaced.
    """
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return None
    meta = read_meta(path)
    if meta is None:
        raise FileExistsError(f"{path} exists and is no index of pyterrier_rescale; choose another path")
    if not overwrite:
        raise FileExistsError(f"there is an index at {path} already; use indexer(mode='overwrite') to replace it")
    known, added = {META_FILE, *meta["files"]}, _ADDED.get(meta["engine"])
    others = [
        name for name in _files(path)
        if name not in known and not name.startswith(_HIDDEN) and not (added and added.fullmatch(name))
    ]  # fmt: skip
    if others:
        raise FileExistsError(
            f"the index folder {path} holds files that are not the index's and would be lost: {', '.join(others[:5])}; "
            "move them elsewhere first"
        )
    return meta.get("generation", "")


def write_meta(folder: Path, artifact: dict, meta: dict) -> None:
    """Write the manifest, the last file of an index, when all others are on the disk; it records their sizes."""
    files = {name: (folder / name).stat().st_size for name in _files(folder) if name != META_FILE}
    for name in files:
        sync(folder / name)
    content = {**artifact, META_KEY: {**meta, "files": files}}
    write_whole(folder / META_FILE, json.dumps(content, indent=1))


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


def _files(folder: Path) -> list[str]:
    """All files below a folder, by their names relative to it."""
    return [str(f.relative_to(folder)) for f in sorted(folder.rglob("*")) if not f.is_dir() or f.is_symlink()]
