"""Free memory by control groups of both versions, from files as Linux has them."""

from __future__ import annotations

import psutil
import pytest

from pyterrier_rescale._utils.free_memory import free_memory

MB = 1 << 20
V1 = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
V2 = ("memory.max", "memory.current", "inactive_file")


@pytest.fixture(autouse=True)
def machine(monkeypatch):
    """A machine with 1,000 MB available."""
    memory = psutil.virtual_memory()._replace(available=1000 * MB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)


def group(folder, names, limit, usage=0, inactive=0):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / names[0]).write_text(f"{limit}\n")
    (folder / names[1]).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon {usage}\n{names[2]} {inactive}\n")


def belongs_to(root, *lines):
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text("".join(f"{line}\n" for line in lines))


def test_without_groups_it_is_the_machines(tmp_path):
    assert free_memory(tmp_path) == 1000 * MB
    belongs_to(tmp_path, "3:cpu:/a", "0::/")
    assert free_memory(tmp_path) == 1000 * MB


def test_version_2_counts_files_in_memory_as_free(tmp_path):
    belongs_to(tmp_path, "0::/job")
    group(tmp_path / "sys/fs/cgroup/job", V2, 700 * MB, usage=300 * MB, inactive=50 * MB)
    assert free_memory(tmp_path) == 450 * MB
    (tmp_path / "sys/fs/cgroup/job/memory.high").write_text(f"{500 * MB}\n")
    assert free_memory(tmp_path) == 250 * MB
    group(tmp_path / "sys/fs/cgroup/job", V2, 200 * MB, usage=300 * MB)
    assert free_memory(tmp_path) == 0


def test_groups_above_limit_too(tmp_path):
    belongs_to(tmp_path, "0::/user/job")
    group(tmp_path / "sys/fs/cgroup/user/job", V2, "max", usage=100 * MB)
    group(tmp_path / "sys/fs/cgroup/user", V2, 600 * MB, usage=200 * MB)
    group(tmp_path / "sys/fs/cgroup/other", V2, MB)
    assert free_memory(tmp_path) == 400 * MB


def test_version_1_and_its_number_for_no_limit(tmp_path):
    belongs_to(tmp_path, "9:name=systemd:/", "4:hugetlb,memory:/job", "0::/")
    group(tmp_path / "sys/fs/cgroup/memory/job", V1, 800 * MB, usage=500 * MB, inactive=100 * MB)
    group(tmp_path / "sys/fs/cgroup/memory", V1, 9223372036854771712)
    assert free_memory(tmp_path) == 400 * MB


@pytest.mark.parametrize("path", ["/docker/4711", "/../../slice"])
def test_a_container_that_does_not_see_its_path(tmp_path, path):
    belongs_to(tmp_path, f"4:memory:{path}")
    group(tmp_path / "sys/fs/cgroup/memory", V1, 300 * MB, usage=100 * MB)
    assert free_memory(tmp_path) == 200 * MB


def test_here():
    assert 0 <= free_memory() <= 1000 * MB
