"""Encoding on a local Ray: the same folder as without it, also when actors are killed midway."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import vector_stub
from vector_stub import StubEncoder, contents, make_documents

import pyterrier_rescale
from pyterrier_rescale import encode

pytestmark = pytest.mark.slow  # Ray's own processes take some ten seconds to start
ray = pytest.importorskip("ray", reason="Ray is not installed: pip install pyterrier-rescale[ray]")


KILLS = (3, 40, 41, 133, 199)  # of an actor each; two of them on the same documents


@pytest.fixture(scope="module")
def cluster():
    """Two processors on this machine; skipped where Ray cannot start."""
    paths = [Path(vector_stub.__file__).parent, Path(pyterrier_rescale.__file__).parents[1]]
    environment = {"PYTHONPATH": os.pathsep.join([*map(str, paths), os.environ.get("PYTHONPATH", "")])}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_raylet_start_wait_time_s", "120")
        patch.setenv("RAY_TMPDIR", "/tmp")
        try:
            ray.init(
                num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1",
                object_store_memory=200 * 2**20, runtime_env={"env_vars": environment},
            )  # fmt: skip
        except Exception as error:
            pytest.skip(f"Ray cannot start a cluster here: {error!r:.200}")
        yield
        ray.shutdown()


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr("pyterrier_rescale.indexing.vectors.intake.WINDOW", 7)


def run(path, splade=None, **options):
    documents = make_documents(200)
    for number in KILLS:
        documents[number]["text"] += f" die!{number}"
    return encode(splade or StubEncoder(), iter(documents), path, shard_size=50, verbose=False, **options)


def test_the_same_folder_also_with_five_actors_killed_midway(cluster, tmp_path):
    run(tmp_path / "here")
    splade = StubEncoder(die_on="die!", once=str(tmp_path / "died"))
    run(tmp_path / "ray", splade, ray=True, workers=2)
    assert len(list(tmp_path.glob("died-*"))) == len(KILLS) and splade.calls == 0
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")


def test_documents_that_cannot_be_encoded_are_named(cluster, tmp_path):
    with pytest.raises(RuntimeError, match="(?s)from docno 'd0' on .*ArithmeticError"):
        encode(StubEncoder(), [{"docno": "d0", "text": "raise!"}], tmp_path / "v", ray=True, verbose=False)


def test_more_actors_than_processors_are_refused(cluster, tmp_path):
    with pytest.raises(ValueError, match="at most the 2 CPUs of the Ray cluster, got 5"):
        run(tmp_path / "v", ray=True, workers=5)
