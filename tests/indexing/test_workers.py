"""Vectors by several processes, by Ray's actors, and after kills: the same folder as by one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from vector_stub import StubEncoder, make_documents

from pyterrier_rescale import encode

STUB = Path(__file__).with_name("vector_stub.py")
PATHS = os.pathsep.join([str(STUB.parent), str(STUB.parents[2]), os.environ.get("PYTHONPATH", "")])


def run(path, splade=None, word="", at=(33,), after=None, **options):
    """The bytes of each shard; the last documents come a while after there is such a file."""
    documents = make_documents(60)
    for number in at:
        documents[number]["text"] += f" {word}{number}"

    def source():
        yield from documents[:48]
        while after is not None and not after.exists():
            time.sleep(0.1)
        time.sleep(after is not None)
        yield from documents[48:]

    vectors = encode(splade or StubEncoder(), source(), path, shard_size=16, verbose=False, **options)
    return {file.name: file.read_bytes() for file in vectors.shards_path.iterdir()}


@pytest.fixture(autouse=True)
def small_windows(monkeypatch):
    monkeypatch.setattr("pyterrier_rescale.indexing.encode.GROUP", 8)


@pytest.mark.parametrize("after", ["died-die!33", None])
def test_the_same_folder_also_after_a_worker_died(tmp_path, after):
    dies = StubEncoder(die_on="die!", once=str(tmp_path / "died"))
    with pytest.raises(RuntimeError, match="a worker died on .*docno 'd"):
        run(tmp_path / "two", dies, "die!", workers=2, after=after and tmp_path / after)
    assert run(tmp_path / "two", dies, "die!", workers=2) == run(tmp_path / "one", word="die!")


def test_documents_that_cannot_be_encoded_are_named(tmp_path):
    with pytest.raises(RuntimeError, match="docno 'd32'.*ArithmeticError"):
        run(tmp_path / "v", StubEncoder(), "raise!", workers=2)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_their_parent(tmp_path, how):
    (tmp_path / "job.py").write_text(
        "import time; from pyterrier_rescale import encode; from vector_stub import StubEncoder, make_documents\n"
        "class Slow(StubEncoder):\n"
        "    def encode_docs(self, texts): time.sleep(20)\n"
        "if __name__ == '__main__':\n"
        "    encode(Slow(), make_documents(5000), 'v', workers=2, verbose=False)"
    )
    environment = {**os.environ, "PYTHONPATH": PATHS}
    job = subprocess.Popen(
        [sys.executable, "job.py"], cwd=tmp_path, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
    )
    children = []
    while len(children) < 3:  # two workers and multiprocessing's resource tracker
        time.sleep(0.1)
        children = psutil.Process(job.pid).children(recursive=True)
    time.sleep(5)
    os.killpg(job.pid, how) if how == signal.SIGINT else job.send_signal(how)  # a terminal tells them all
    assert job.wait(10) == -how
    assert not psutil.wait_procs(children, timeout=25)[1]


@pytest.fixture(scope="module")
def cluster():
    """Two processors on this machine; skipped where Ray is not installed or cannot start."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install pyterrier-rescale[ray]")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_raylet_start_wait_time_s", "120")
        try:
            ray.init(
                num_cpus=2, include_dashboard=False, log_to_driver=False, _node_ip_address="127.0.0.1",
                object_store_memory=200 * 2**20, runtime_env={"env_vars": {"PYTHONPATH": PATHS}},
            )  # fmt: skip
        except Exception as error:
            pytest.skip(f"Ray cannot start a cluster here: {error!r:.200}")
        yield
        ray.shutdown()


@pytest.mark.slow
def test_on_ray_also_with_actors_killed_midway(cluster, tmp_path):
    kills = (3, 17, 20)  # two of them in one window; what waits behind it is tried again as often
    dies = StubEncoder(die_on="die!", once=str(tmp_path / "died"))
    on_ray = run(tmp_path / "ray", dies, "die!", kills, ray=True, workers=2)
    assert on_ray == run(tmp_path / "here", word="die!", at=kills)
    assert len(list(tmp_path.glob("died-*"))) == len(kills) and dies.calls == 0


@pytest.mark.slow
@pytest.mark.parametrize(("n", "error", "named"), [(1, RuntimeError, "(?s)'d32'.*Arith"), (5, ValueError, "workers")])
def test_what_ray_cannot_do(cluster, tmp_path, n, error, named):
    with pytest.raises(error, match=named):
        run(tmp_path / "v", word="raise!", ray=True, workers=n)
