"""The command as a process: errors end in one line, Ctrl-C and SIGTERM in a sentence, each with its exit status."""

from __future__ import annotations

import os
import re
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any

import typer

from .app import app

NAME = "pyterrier-rescale"
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
    signal.signal(signal.SIGTERM, _terminate)
    warnings.formatwarning = _format_warning
    sys.exit(_run(list(sys.argv[1:] if arguments is None else arguments)))


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
        print("\ninterrupted; the same command again goes on from what is finished", file=sys.stderr)
        return 128 + (signal.SIGTERM if isinstance(stop, _Terminated) else signal.SIGINT)
    except _UsageProblem as problem:
        problem.show()
        return problem.exit_code
    except BrokenPipeError:  # `| head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except Exception as error:
        if context is not None and context.params.get("traceback"):
            traceback.print_exc()
        verb = command.get_command(context, context.invoked_subcommand) if context is not None else None
        print(f"{NAME}: error: {_with_flags(_one_line(error), verb)}", file=sys.stderr)
        return 1


def _one_line(error: Exception) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    text = " ".join(text.split())
    if text and isinstance(error, _EXPLAINED):
        return text
    return f"{type(error).__name__}{': ' if text else ''}{text} (`{NAME} --traceback ...` shows where)"


def _with_flags(text: str, verb: Any) -> str:
    """Arguments of Python in a message, as the verb's flags: ``overwrite=True`` is ``--overwrite``."""
    for option in [] if verb is None else verb.params:
        if option.param_type_name == "option":
            name, flag = rf"(?<![-\w]){re.escape(option.name)}", option.opts[0]
            text = re.sub(rf"{name}(=True|(?= must ))", flag, text)
            text = re.sub(rf"{name}=", f"{flag} ", text)
    return text


def _format_warning(message: Warning | str, category: type[Warning], *place: Any, **line: Any) -> str:
    """Warnings to users in a line, without file and source code; those to programmers stay as they are."""
    if category is UserWarning:
        return f"{NAME}: warning: {' '.join(str(message).split())}\n"
    return _usual_format(message, category, *place, **line)


_usual_format = warnings.formatwarning


def _terminate(number: int, frame: Any) -> None:
    raise _Terminated
