"""Files and folders: whole or absent, flushed before their names appear, with the modes that the umask gives."""

from __future__ import annotations

import os
import pwd
import stat

import pytest

from pyterrier_rescale._utils.files import cache_dir, filled, whole_folder
from pyterrier_rescale._utils.made_from import claim


def test_cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTERRIER_RESCALE_HOME", str(tmp_path / "home"))
    assert cache_dir("a", "b") == tmp_path / "home" / "a" / "b" and (tmp_path / "home" / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PYTERRIER_RESCALE_HOME", str(tmp_path / "file"))
    with pytest.raises(PermissionError, match="set PYTERRIER_RESCALE_HOME to a folder that is writable"):
        cache_dir("a")


def test_no_home_folder_is_one_clear_error(monkeypatch):
    """A user whom neither HOME nor the password file knows, as in containers."""
    for variable in ("HOME", "XDG_CACHE_HOME", "PYTERRIER_RESCALE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", {}.__getitem__)
    with pytest.raises(PermissionError, match="set PYTERRIER_RESCALE_HOME"):
        cache_dir("a")


def test_a_whole_folder_is_whole_or_absent(tmp_path, monkeypatch):
    target = tmp_path / "built"
    with pytest.raises(RuntimeError), whole_folder(target) as beside:
        (beside / "half").write_text("")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with whole_folder(target) as first, whole_folder(target) as second:
        (first / "from").write_text("first")
        (second / "from").write_text("second")
    assert (target / "from").read_text() == "second", "the block that ends first is kept"
    assert list(tmp_path.iterdir()) == [target]
    with pytest.raises(FileExistsError), whole_folder(target):
        pass
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "link").symlink_to("real")
    for path, at in (("~/home", "home"), (tmp_path / "link", "real")):
        with whole_folder(path) as folder:
            (folder / "file").write_text("x")
        assert (tmp_path / at / "file").is_file()


def test_a_filled_folder_keeps_what_is_not_ours(tmp_path):
    path = tmp_path / "model"
    path.mkdir()
    for name in ("README.md", "old-1.bin", "mark.json"):
        (path / name).write_text("old")
    with pytest.raises(OSError, match="full"), filled(path, "mark.json") as stage:
        (stage / "new.bin").write_text("half")
        raise OSError("full")
    assert sorted(p.name for p in path.iterdir()) == ["README.md", "mark.json", "old-1.bin"]
    with filled(path, "mark.json", stale=lambda name: name.endswith(".bin")) as stage:
        (stage / "below").mkdir()
        for name in ("new.bin", "mark.json", "below/x"):
            (stage / name).write_text("new")
    found = {p.relative_to(path).as_posix(): p.read_text() for p in path.rglob("*") if p.is_file()}
    assert found == {"README.md": "old", "new.bin": "new", "mark.json": "new", "below/x": "new"}


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_modes_are_the_umasks(tmp_path, mask):
    """Libraries leave files 0600, which nobody else who shares a cache can read."""
    outside = tmp_path / "outside"
    outside.touch(mode=0o600)
    before = os.umask(mask)
    try:
        with whole_folder(tmp_path / "a" / "b") as folder:
            (folder / "private").touch(mode=0o600)
            (folder / "link").symlink_to(outside)
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / path).stat().st_mode) for path in ("a/b/private", "a/b", "outside")]
    assert modes == [0o666 & ~mask, 0o777 & ~mask, 0o600]


def test_one_rule_for_what_is_there(tmp_path, monkeypatch):
    """The same call goes on, other inputs are refused by name, overwrite starts anew; nothing of others is claimed."""
    made_from = {"encoder": "a", "steps": 3, "shift": (1.0, 2.0)}
    claim(tmp_path / "run", "run.json", made_from)
    (tmp_path / "run" / "result").write_text("x")
    (tmp_path / "run" / "notes").write_text("x")
    claim(tmp_path / "run", "run.json", made_from, made=["result"])
    assert (tmp_path / "run" / "result").exists()
    with pytest.raises(ValueError, match="steps was 3, now 4; seed was None, now 1.*overwrite=True") as error:
        claim(tmp_path / "run", "run.json", {**made_from, "steps": 4, "seed": 1})
    assert "encoder" not in str(error.value)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):  # stopped where the record would be new
        patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        claim(tmp_path / "run", "run.json", {"steps": 4}, overwrite=True, made=["result", "folder"])
    claim(tmp_path / "run", "run.json", made_from)  # the former call's folder, without its result
    assert sorted(file.name for file in (tmp_path / "run").iterdir()) == ["notes", "run.json"]
    claim(tmp_path / "run", "run.json", {"steps": 4}, overwrite=True)
    claim(tmp_path / "run", "run.json", {"steps": 4})
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    for overwrite in (True, False):
        with pytest.raises(FileExistsError, match="mine"):
            claim(tmp_path / "mine", "run.json", made_from, overwrite=overwrite)
    with pytest.raises(FileExistsError):
        claim(tmp_path / "mine" / "thesis.tex", "run.json", made_from)
    (tmp_path / "run" / "run.json").write_text("{cut")
    with pytest.raises(ValueError, match="damaged"):
        claim(tmp_path / "run", "run.json", made_from)
