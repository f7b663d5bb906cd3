"""Ctrl-C at a real terminal, while encoders are trained beside the JVM; SIGTERM; the exit statuses of the command."""

from __future__ import annotations

import os
import signal
import sys
import time

import pandas as pd
import pexpect
import pytest
from test_cli import write_collection

from pyterrier_rescale import open_index
from pyterrier_rescale.cli import entry

STEPS = 100
HANGS = 60  # seconds: far more than ending takes, so that only a process that hangs fails


def terminal(*arguments):
    """A process at a terminal of its own, whose Ctrl-C is as a shell's foreground job has it."""
    return pexpect.spawn(
        sys.executable, list(map(str, arguments)), encoding="utf-8", timeout=120,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )  # fmt: skip


def end(process, seconds=HANGS):
    """Exit status, and what was printed since the last wait; a process that hangs fails."""
    process.expect(pexpect.EOF, timeout=seconds)
    process.close()
    return process.exitstatus, process.before


def wait_for(condition, process):
    deadline = time.monotonic() + 120
    while not condition():
        assert process.isalive() and time.monotonic() < deadline, process.read_nonblocking(100_000)
        time.sleep(0.02)


def steps_done(output):
    """Lines of the logs of the encoders that are being trained."""
    return sum(log.read_text().count("\n") for log in output.rglob("monitor.csv"))


@pytest.mark.slow
def test_interrupted_compare_ends_at_once_and_goes_on(bert_folder, tmp_path):
    output, collection = tmp_path / "out", write_collection(tmp_path / "data")
    command = [
        "-m", "pyterrier_rescale", "compare", collection, output, "--backbone", f"b={bert_folder}", "--rescale", "4",
        "--max-steps", STEPS, "--batch-size", "4", "--max-length", "16", "--engine", "exact",
    ]  # fmt: skip
    process = terminal(*command)
    process.expect_exact("Java started")  # the JVM must run, else this shows nothing
    wait_for(lambda: steps_done(output) > 3, process)
    process.sendintr()
    status, printed = end(process)
    assert status == 130, printed
    assert "give the same command again" in printed and "Traceback" not in printed, printed
    assert steps_done(output) < STEPS and not (output / "results.csv").exists()

    status, printed = end(terminal(*command), 5 * HANGS)
    assert status == 0 and "| b k=4 " in printed, printed
    assert "b k=4" in set(pd.read_csv(output / "results.csv")["name"])


def test_queries_are_typed_at_a_prompt(bert_folder, tmp_path):
    index = open_index(tmp_path / "index", "exact").indexer().index([{"docno": "d", "toks": {"hello": 100}}])
    process = terminal("-m", "pyterrier_rescale", "search", index.path, bert_folder, "-")
    process.expect_exact("query> ")
    process.sendline("something")
    process.expect("1: .*query> ")
    process.sendeof()
    assert end(process)[0] == 0


def test_sigterm_ends_by_way_of_an_exception(monkeypatch, capsys):
    cleared = []

    def audit(*_):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(HANGS)
        finally:
            cleared.append(True)

    monkeypatch.setattr("pyterrier_rescale.audit", audit)
    with pytest.raises(SystemExit) as stop:
        entry.main(["audit", "x"])
    assert stop.value.code == 143 and cleared and "interrupted" in capsys.readouterr().err


JVM_OF_THE_USER = """if True:
    import sys, time
    import pyterrier as pt
    from pyterrier_rescale._utils import java
    pt.java.set_java_home(java.java_home())
    pt.java.init()  # without -Xrs
    try:
        if len(sys.argv) > 1:
            from pyterrier_rescale import train
            train(sys.argv[1], [(f"word {i}", f"a text of word {i}") for i in range(50)], sys.argv[2], max_steps=2000,
                  batch_size=4, max_length=16, save_steps=0)
        else:
            java.start_java()
            print("ready")
            time.sleep(600)
    except KeyboardInterrupt:
        print("caught by Python")
"""


@pytest.mark.parametrize("training", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_ctrl_c_reaches_python_beside_a_jvm_that_others_started(training, bert_folder, tmp_path):
    process = terminal("-c", JVM_OF_THE_USER, *([bert_folder, tmp_path] if training else []))
    if training:
        wait_for(lambda: steps_done(tmp_path) > 3, process)
    else:
        process.expect_exact("ready")
    process.sendintr()
    status, printed = end(process)
    assert status == 0 and "caught by Python" in printed, printed


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted; give the same command again"),
        (EOFError("Compressed file ended"), 1, "error: EOFError: Compressed file ended"),
        (ZeroDivisionError("by zero"), 1, "error: ZeroDivisionError: by zero (`pyterrier-rescale --traceback"),
        (KeyError("no 'text'"), 1, "error: no 'text'"),
        (AssertionError(), 1, "error: AssertionError (`"),
    ],
)
@pytest.mark.parametrize("arguments", [["audit", "x"], ["--traceback", "audit", "x"]])
def test_every_end_has_its_status_and_a_line(error, status, message, arguments, monkeypatch, capsys):
    def fails(*_):
        raise error

    monkeypatch.setattr("pyterrier_rescale.audit", fails)
    with pytest.raises(SystemExit) as stop:
        entry.main(arguments)
    printed = capsys.readouterr()
    assert stop.value.code == status and not printed.out
    assert message in printed.err.splitlines()[-1]
    assert ("Traceback" in printed.err) == (arguments[0] == "--traceback" and isinstance(error, Exception))
