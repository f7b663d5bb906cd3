"""What is written can be read as the umask says, and is on the disk before its name says that it is whole."""

from __future__ import annotations

import errno
import os
import stat
import uuid
from contextlib import suppress
from pathlib import Path

# What fsync answers where a file system has no such thing.
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EROFS}


def settle(folder: str | os.PathLike[str]) -> None:
    """Give a folder and all below it the modes that plain new ones would get here, and flush them to the disk.

    Libraries that write beside and rename (safetensors, ``tempfile``) leave files 0600 and folders 0700, which nobody
    else who shares a cache or a model can read. For folders that hold only what was just written.
    """
    folder = Path(folder)
    plain, folders = usual_modes(folder)
    for root, _, files in os.walk(folder, topdown=False):
        for name in files:
            path = Path(root, name)
            if not path.is_symlink():
                _set_mode(path, plain)
                sync(path)
        _set_mode(Path(root), folders)
        sync(root)


def usual_modes(folder: str | os.PathLike[str]) -> tuple[int, int]:
    """Modes of a new file and a new folder in a folder, as the umask (or a default ACL) gives them.

    They are read off a file that is made and removed: to ask for the umask is to change it for all threads.
    """
    probe = Path(folder, f".mode-{uuid.uuid4().hex}")
    probe.mkdir()
    try:
        file = probe / "file"
        file.touch()
        modes = stat.S_IMODE(file.stat().st_mode), stat.S_IMODE(probe.stat().st_mode)
        file.unlink()
    finally:
        probe.rmdir()
    return modes


def write_whole(path: str | os.PathLike[str], content: str) -> None:
    """Write a text file beside, flush it, and put it in place: a reader finds the old one or the new one."""
    path = Path(path)
    beside = path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        beside.write_bytes(content.encode())
        put_in_place(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def put_in_place(beside: Path, path: Path) -> None:
    """Flush a file, give it its final name, and flush the folder of that."""
    sync(beside)
    os.replace(beside, path)
    sync(path.parent)


def sync(path: str | os.PathLike[str]) -> None:
    """Flush a file or folder to the disk, where the file system can."""
    try:
        handle = os.open(path, os.O_RDONLY)
    except PermissionError:  # folders on Windows
        if Path(path).is_dir():
            return
        raise
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _NO_SYNC:
            raise
    finally:
        os.close(handle)


def _set_mode(path: Path, mode: int) -> None:
    if stat.S_IMODE(path.stat().st_mode) != mode:
        with suppress(PermissionError):  # file systems without modes
            path.chmod(mode)
