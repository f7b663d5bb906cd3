"""Ctrl-C at a real terminal, while encoders are trained beside the JVM; SIGTERM; the exit statuses of the command."""

from __future__ import annotations

import contextlib
import fcntl
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
import time

import pandas as pd
import pytest
from test_cli import write_collection

from pyterrier_rescale.cli import entry

STEPS = 100
HANGS = 60  # seconds: far more than ending takes, so that only a process that hangs fails


class Terminal:
    """A process whose controlling terminal is a pty of ours; what it prints is gathered."""

    def __init__(self, arguments, **environment):
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, *map(str, arguments)], stdin=slave, stdout=slave, stderr=slave, start_new_session=True,
            preexec_fn=self._own_terminal, env={**os.environ, **environment},
        )  # fmt: skip
        os.close(slave)
        self.output = b""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @staticmethod
    def _own_terminal():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it, and so would their children

    def _read(self):
        with contextlib.suppress(OSError):  # EIO once the last process has closed the terminal
            while part := os.read(self.master, 4096):
                self.output += part

    def wait_for(self, condition, what):
        deadline = time.monotonic() + 120
        while not condition():
            assert self.process.poll() is None, f"ended before {what}:\n{self.output.decode()}"
            assert time.monotonic() < deadline, f"no {what}:\n{self.output.decode()}"
            time.sleep(0.02)

    def press_ctrl_c(self):
        os.write(self.master, b"\x03")

    def end(self, seconds=HANGS):
        """Exit status, and everything printed; a process that hangs is killed and fails."""
        try:
            status = self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"hangs after the signal:\n{self.output.decode()}") from None
        self._reader.join(HANGS)
        os.close(self.master)
        return status, self.output.decode()


def steps_done(output):
    """Lines of the log of the encoder that is being trained."""
    return sum(log.read_text().count("\n") for log in (output / "encoders").glob("*/monitor.csv"))


@pytest.mark.slow
def test_interrupted_compare_ends_at_once_and_goes_on(bert_folder, tmp_path):
    output, collection = tmp_path / "out", write_collection(tmp_path / "data")
    command = [
        "-m", "pyterrier_rescale.cli", "compare", collection, output, "--backbone", f"b={bert_folder}", "--rescale",
        "4", "--max-steps", STEPS, "--batch-size", "4", "--max-length", "16", "--engine", "exact",
    ]  # fmt: skip
    terminal = Terminal(command, OMP_NUM_THREADS="1")  # threads that wait for each other beside other work take minutes
    terminal.wait_for(lambda: steps_done(output) > 3, "training")
    terminal.press_ctrl_c()
    status, printed = terminal.end()
    assert status == 130, printed
    assert "Java started" in printed, "the JVM must run, else this shows nothing"
    assert "the same command again goes on" in printed and "Traceback" not in printed, printed
    assert steps_done(output) < STEPS and not (output / "results.csv").exists()

    status, printed = Terminal(command, OMP_NUM_THREADS="1").end(5 * HANGS)
    assert status == 0 and "| b k=4 " in printed, printed
    assert pd.read_csv(output / "results.csv")["name"].tolist()[-1] == "b k=4"


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
    log = tmp_path / "run" / "monitor.csv"
    terminal = Terminal(["-c", JVM_OF_THE_USER, *([bert_folder, log.parent] if training else [])])
    if training:
        terminal.wait_for(lambda: log.exists() and log.read_text().count("\n") > 3, "training")
    else:
        terminal.wait_for(lambda: b"ready" in terminal.output, "the JVM")
    terminal.press_ctrl_c()
    status, printed = terminal.end()
    assert status == 0 and "caught by Python" in printed, printed


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted; the same command again goes on from what is finished"),
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


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "Usage"), (["rescle"], 2, "No such command"), (["audit"], 2, "Missing argument"),
        (["audit", "x", "--n-texts", "1"], 2, "Invalid value"), (["--version"], 0, ""), (["train", "--help"], 0, ""),
    ],
)  # fmt: skip
def test_usage(arguments, status, message, capsys):
    with pytest.raises(SystemExit) as stop:
        entry.main(arguments)
    printed = capsys.readouterr()
    assert stop.value.code == status and message in printed.err + printed.out and "Traceback" not in printed.err
