"""One rule for what is there: the same call continues, other inputs are refused, ``overwrite=True`` starts anew.

What a run, an index or a folder of vectors was made from is a flat dict of plain JSON values: fingerprints, settings.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .files import only_process, write_whole

_LOCK = ".lock"


def read_record(folder: Path, name: str) -> dict[str, Any] | None:
    """The record ``name`` in a folder; None if there is none."""
    try:
        return json.loads((folder / name).read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except ValueError as error:
        raise ValueError(f"{folder / name} is damaged ({error}): remove the folder, or choose another one") from error


def check_same(path: Path, found: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise ``ValueError``, which names all that differs, unless two records are the same."""
    names = [name for name in {**wanted, **found} if found.get(name) != wanted.get(name)]
    if names:
        told = "; ".join(f"{name} was {found.get(name)!r:.80}, now {wanted.get(name)!r:.80}" for name in names)
        raise ValueError(
            f"{str(path)!r} was made from other inputs: {told}. Choose another path, or start anew with overwrite=True"
        )


def occupied(folder: Path) -> bool:
    """Whether a folder holds anything but a lock."""
    return folder.is_dir() and any(one.name != _LOCK for one in folder.iterdir())


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Let no second process work in a folder, which is made; ``RuntimeError`` for the second."""
    folder.mkdir(parents=True, exist_ok=True)
    with only_process(folder / _LOCK):
        try:
            yield
        finally:
            with suppress(OSError):  # Windows keeps a file that is open
                (folder / _LOCK).unlink()


def claim(
    folder: Path, name: str, made_from: Mapping[str, Any], *, overwrite: bool = False, made: Iterable[str] = ()
) -> None:
    """Make a folder that says in its record ``name`` what is made there; the same call continues in it.

    With ``overwrite``, the files and folders ``made`` by a former run go first, then the record becomes the new one: a
    kill in between leaves the former's, so that nothing of it is taken for the new run's.
    """
    made_from, found = json.loads(json.dumps(made_from)), read_record(folder, name)  # tuples come back as lists
    if found is None and occupied(folder):
        raise FileExistsError(f"{str(folder)!r} is not empty and holds no {name}: choose another folder")
    if found is not None and not overwrite:
        check_same(folder, found, made_from)
        return
    folder.mkdir(parents=True, exist_ok=True)
    for old in (folder / one for one in made if found is not None):
        shutil.rmtree(old) if old.is_dir() else old.unlink(missing_ok=True)
    write_whole(folder / name, json.dumps(made_from, indent=2) + "\n")
