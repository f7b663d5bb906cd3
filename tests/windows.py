"""What Windows refuses, on Linux: for tests that files are written as every system allows."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil

from pyterrier_rescale.indexing import store


def simulate_windows(monkeypatch, root) -> None:
    """What Windows refuses: unlinking, replacing or renaming an open or mapped file, fsync on a read-only handle."""

    def busy(path) -> bool:
        path = os.path.realpath(path)
        held = {os.path.realpath(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")}
        with open("/proc/self/maps") as maps:
            held |= {line.split(None, 5)[5].rstrip("\n") for line in maps if line.count("/")}
        return path in held or any(name.startswith(path + "/") for name in held)

    def careful(name, function):
        def call(*args, **kwargs):
            for path in args[: 2 if name in ("replace", "rename") else 1]:
                ours = isinstance(path, (str, os.PathLike)) and str(root) in str(path)
                if ours and not str(path).endswith(store.LOCK) and busy(path):
                    raise PermissionError(errno.EACCES, "the file is used by another process", str(path))
            return function(*args, **kwargs)

        return call

    for name in ("unlink", "remove", "replace", "rename", "rmdir"):
        monkeypatch.setattr(os, name, careful(name, getattr(os, name)))
    # shutil.rmtree works by descriptors of folders here, which Windows has not
    monkeypatch.setattr(shutil, "_use_fd_functions", False)
    fsync = os.fsync

    def strict(descriptor):
        if fcntl.fcntl(descriptor, fcntl.F_GETFL) & os.O_ACCMODE == os.O_RDONLY and not os.path.isdir(
            f"/proc/self/fd/{descriptor}"
        ):
            raise OSError(errno.EBADF, "fsync of a read-only handle")
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", strict)
