"""Modes follow the umask whatever a library left, and what is written is flushed before its name appears."""

from __future__ import annotations

import os
import stat

import pytest

from pyterrier_rescale._utils import durable
from pyterrier_rescale._utils.durable import settle, write_whole
from pyterrier_rescale._utils.paths import whole_folder


@pytest.fixture(params=[0o022, 0o002, 0o077, 0o027])
def umask(request):
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def modes(folder):
    return {p.relative_to(folder).as_posix(): stat.S_IMODE(p.stat().st_mode) for p in [folder, *folder.rglob("*")]}


def test_a_whole_folder_and_all_in_it_get_the_umasks_modes(umask, tmp_path):
    with whole_folder(tmp_path / "a" / "b") as beside:
        (beside / "private").write_text("x")
        (beside / "private").chmod(0o600)
        (beside / "below").mkdir(mode=0o700)
        (beside / "below" / "tool").write_text("x")
        (beside / "below" / "tool").chmod(0o400)
    folder, file = 0o777 & ~umask, 0o666 & ~umask
    assert modes(tmp_path / "a" / "b") == {".": folder, "private": file, "below": folder, "below/tool": file}
    assert os.umask(umask) == umask  # as it was


def test_nothing_outside_is_touched(tmp_path):
    outside = tmp_path / "outside"
    outside.write_text("x")
    outside.chmod(0o600)
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link").symlink_to(outside)
    settle(folder)
    assert stat.S_IMODE(outside.stat().st_mode) == 0o600


def test_all_is_flushed_before_the_name_appears(tmp_path, monkeypatch):
    done = []
    replace, fsync = os.replace, os.fsync

    def note(handle):
        done.append(os.readlink(f"/proc/self/fd/{handle}"))
        fsync(handle)

    monkeypatch.setattr(os, "fsync", note)
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("rename"), replace(a, b)))
    with whole_folder(tmp_path / "target") as beside:
        (beside / "data").write_text("x")
    assert done[:3] == [f"{beside}/data", f"{beside}", "rename"]
    done.clear()
    write_whole(tmp_path / "file", "content")
    assert done[1:] == ["rename", str(tmp_path)] and "/.file-" in done[0]
    assert (tmp_path / "file").read_text() == "content"


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    write_whole(tmp_path / "file", "old")
    monkeypatch.setattr(durable, "sync", lambda path: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_whole(tmp_path / "file", "new")
    assert [path.name for path in tmp_path.iterdir()] == ["file"] and (tmp_path / "file").read_text() == "old"
