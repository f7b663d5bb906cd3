from __future__ import annotations

import os
import pwd
import sys

import pytest

from pyterrier_rescale._utils.paths import cache_dir, expand, whole_folder
from pyterrier_rescale.collections import load_collection


def test_cache_dir(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTERRIER_RESCALE_HOME", str(tmp_path / "home"))
    assert cache_dir("a", "b") == tmp_path / "home" / "a" / "b" and (tmp_path / "home" / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PYTERRIER_RESCALE_HOME", str(tmp_path / "file"))
    with pytest.raises(PermissionError, match="set PYTERRIER_RESCALE_HOME to a folder that is writable"):
        cache_dir("a")


@pytest.mark.skipif(sys.platform == "win32" or os.geteuid() == 0, reason="root may write anywhere")
def test_cache_dir_read_only(tmp_path, monkeypatch):
    tmp_path.chmod(0o500)
    monkeypatch.setenv("PYTERRIER_RESCALE_HOME", str(tmp_path))
    with pytest.raises(PermissionError, match="cannot write to the cache folder"):
        cache_dir()


def test_whole_folder_is_whole_or_absent(tmp_path):
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


def test_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with whole_folder("~/built") as beside:
        (beside / "file").write_text("")
    assert (tmp_path / "built" / "file").is_file() and not (tmp_path / "~").exists()
    monkeypatch.setenv("PYTERRIER_RESCALE_HOME", "~/cache")
    assert cache_dir("a") == tmp_path / "cache" / "a"


@pytest.fixture
def no_home(monkeypatch):
    """A user whom neither HOME nor the password file knows, as in containers."""

    def unknown(uid):
        raise KeyError(uid)

    monkeypatch.delenv("HOME")
    monkeypatch.setattr(pwd, "getpwuid", unknown)


def test_no_home_folder_is_one_clear_error(no_home, monkeypatch, tmp_path):
    monkeypatch.delenv("PYTERRIER_RESCALE_HOME", raising=False)
    with pytest.raises(ValueError, match="no such home folder.*set PYTERRIER_RESCALE_HOME to a folder"):
        cache_dir("a")
    monkeypatch.setenv("PYTERRIER_RESCALE_HOME", str(tmp_path))
    assert cache_dir("a") == tmp_path / "a"
    for open_it in (expand, load_collection):
        with pytest.raises(ValueError, match="'~/zoo': there is no such home folder; write the path in full"):
            open_it("~/zoo")


@pytest.mark.parametrize("name", ["vaswani", "irds:vaswani"])
def test_names_that_are_kept_in_a_home_folder_need_one(no_home, monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    for variable in ("PYTERRIER_HOME", "IR_DATASETS_HOME"):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(ValueError, match=f"'{name}' is kept in the home folder, but there is none: set HOME"):
        load_collection(name).topics()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("user", ["~", "~nobody-of-this-name/x"])
def test_home_folders_of_unknown_users(no_home, user):
    with pytest.raises(ValueError, match="there is no such home folder"):
        expand(user)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems have other places")
def test_the_cache_is_where_the_system_keeps_caches(monkeypatch, tmp_path):
    for variable in ("PYTERRIER_RESCALE_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir("a") == tmp_path / ".cache" / "pyterrier_rescale" / "a"


def test_a_folder_through_a_link(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    with whole_folder(tmp_path / "link") as folder:
        (folder / "file").write_text("all of it")
    assert (tmp_path / "real" / "file").read_text() == "all of it" and (tmp_path / "link").is_symlink()
    (tmp_path / "dangling").symlink_to("later")
    with whole_folder(tmp_path / "dangling") as folder:
        (folder / "file").write_text("x")
    assert (tmp_path / "later" / "file").exists()


def test_a_place_that_cannot_be_taken_is_an_error(tmp_path, monkeypatch):
    """As where something is mounted on it: the result must not be thrown away in silence."""
    (tmp_path / "mounted").mkdir()
    monkeypatch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError(16, "Device or resource busy")))
    with pytest.raises(OSError, match="busy"), whole_folder(tmp_path / "mounted") as folder:
        (folder / "file").write_text("x")
