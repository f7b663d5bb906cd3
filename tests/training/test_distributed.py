"""Two processes (torchrun, gloo) train the weights of one process at the same global batch."""

from __future__ import annotations

import csv
import subprocess
import sys
import textwrap

import pytest
import tiny
import torch

SCRIPT = """
import sys
sys.path.insert(0, {tests!r})
import tiny, torch
torch.set_num_threads(1)
from pyterrier_rescale import train
pairs = [(" ".join(text.split()[:3]), text) for text in tiny.TEXTS]
train({backbone!r}, pairs, sys.argv[1], batch_size=int(sys.argv[2]), max_steps=8, learning_rate=1e-3, max_length=32,
      ramp_steps=4, lambda_q=0.05, lambda_d=0.05, rescale=4.0, save_steps=3, device="cpu", verbose=False,
      queries={queries!r}, regularizer={regularizer!r})
"""


@pytest.mark.slow
@pytest.mark.parametrize(("queries", "regularizer"), [("model", "flops"), ("static", "flops"), ("model", "anti_zero")])
def test_two_processes_equal_one(queries, regularizer, tmp_path):
    from safetensors.torch import load_file

    backbone = tiny.save("bert", tmp_path / "still", hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0)
    script = tmp_path / "script.py"
    tests = tiny.__file__.rsplit("/", 1)[0]
    options = {"backbone": backbone, "queries": queries, "regularizer": regularizer}
    script.write_text(textwrap.dedent(SCRIPT).format(tests=tests, **options))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for command in ([sys.executable, script, tmp_path / "one", "6"], [*torchrun, script, tmp_path / "two", "3"]):
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    weights = ["model.safetensors"]
    if queries == "static":
        weights.append("query_0_SparseStaticEmbedding/model.safetensors")
    for file in weights:
        one, two = (load_file(tmp_path / name / file) for name in ("one", "two"))
        for name, value in one.items():
            torch.testing.assert_close(two[name], value, rtol=0, atol=1e-4)
    logs = []
    for name in ("one", "two"):
        with open(tmp_path / name / "monitor.csv", newline="") as file:
            logs.append(list(csv.DictReader(file)))
    assert [row["step"] for row in logs[1]] == [str(step) for step in range(1, 9)]
    for column in ("ranking", "penalty_q", "penalty_d", "grad_norm"):
        expected = [float(row[column]) for row in logs[0]]
        assert [float(row[column]) for row in logs[1]] == pytest.approx(expected, rel=1e-3)
