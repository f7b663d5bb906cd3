"""The command as a process: errors end in one line, Ctrl-C and SIGTERM in a sentence, each with its exit status."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import typer

from .app import app

NAME = "pyterrier-rescale"
_INTERRUPTED, _TERMINATED = 128 + signal.SIGINT, 128 + signal.SIGTERM
# What bad input raises: its message says all. Of other exceptions the type is told, too.
_EXPLAINED = (ValueError, TypeError, OSError, KeyError, ImportError, RuntimeError)
# Typer brings a copy of click of its own from some version on; this is the class of either.
_UsageProblem: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")


class _Terminated(KeyboardInterrupt):
    """SIGTERM, e.g. of a cluster's scheduler: temporary folders are cleared as on Ctrl-C."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; errors of the user's making end as one line on stderr and exit status 1.

    Ctrl-C ends with status 130, SIGTERM with 143, a wrong usage with 2.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    with _sigterm_as_exception(), _warnings_in_a_line():
        status = _run(list(sys.argv[1:] if arguments is None else arguments))
    sys.exit(status)


def _run(arguments: list[str]) -> int:
    """The exit status of a call. Typer's own loop would turn Ctrl-C and the end of a cut file into "Aborted."."""
    command, context = typer.main.get_command(app), None
    try:
        with command.make_context(NAME, arguments) as context:
            command.invoke(context)
        sys.stdout.flush()
        return 0
    except typer.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort) as stop:
        again = " with --resume" if arguments[:1] == ["train"] and "--resume" not in arguments else ""
        print(f"\ninterrupted; run the same command again{again} to go on", file=sys.stderr)
        return _TERMINATED if isinstance(stop, _Terminated) else _INTERRUPTED
    except _UsageProblem as problem:
        problem.show()
        return problem.exit_code
    except BrokenPipeError:  # `| head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if context is not None and context.params.get("traceback"):
            traceback.print_exc()
        print(f"{NAME}: error: {_one_line(error)}", file=sys.stderr)
        return 1


def _one_line(error: Exception) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    text = " ".join(text.split())
    if text and isinstance(error, _EXPLAINED):
        return text
    return f"{type(error).__name__}{': ' if text else ''}{text} (`{NAME} --traceback ...` shows where)"


@contextlib.contextmanager
def _warnings_in_a_line() -> Iterator[None]:
    """Warnings to users without file, line and source code; those to programmers stay as they are."""
    usual = warnings.formatwarning

    def formatted(message: Warning | str, category: type[Warning], *place: Any, **line: Any) -> str:
        if category is UserWarning:
            return f"{NAME}: warning: {' '.join(str(message).split())}\n"
        return usual(message, category, *place, **line)

    warnings.formatwarning = formatted
    try:
        yield
    finally:
        warnings.formatwarning = usual


@contextlib.contextmanager
def _sigterm_as_exception() -> Iterator[None]:
    """Raise on SIGTERM, so that what is half built is cleared away; put back what was there before."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(number: int, frame: Any) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
