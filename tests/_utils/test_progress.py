"""Progress bars: at a terminal and in notebooks PyTerrier's; none in a log or a pipe."""

from __future__ import annotations

import io
import sys

import pyterrier as pt
import pytest

from pyterrier_rescale._utils.progress import progress_bar


@pytest.mark.parametrize(("terminal", "lines"), [(True, 4), (False, 0)])
def test_a_terminal_sees_it_move_a_log_stays_short(monkeypatch, terminal, lines):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    assert list(progress_bar(range(3), desc="moving", mininterval=0)) == [0, 1, 2]
    assert sys.stderr.getvalue().count("\rmoving") >= lines and ("100%" in sys.stderr.getvalue()) == terminal


def test_widgets_of_notebooks_stay(monkeypatch):
    widget = type("tqdm_notebook", (), {"__module__": "tqdm.notebook", "__init__": lambda self, items, **o: None})
    monkeypatch.setattr(pt, "tqdm", type("tqdm", (widget,), {"__module__": "tqdm.auto"}))
    assert isinstance(progress_bar(range(3), desc="x"), widget)
