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
# What Python's users are told to call, and what does the same here.
_CALLS = {
    r"indexer\(mode='overwrite'\)( or encode\(overwrite=True\))?": "--overwrite",
    r"encode\(splade, documents, path\)": f"`{NAME} encode`",
    r"\(doc_encoder >> index\.indexer\(\)\)\.index\(docs\)": f"`{NAME} index`",
    r"open_index\(another_path\)\.indexer\(\)\.index\(open_vectors\((.*?)\)\)": rf"`{NAME} index \1 ANOTHER`",
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; errors of the user's making end as one line on stderr and exit status 1.

    Ctrl-C ends with status 130, SIGTERM with 143, a wrong usage with 2.
    """
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))  # clears temporary folders, as Ctrl-C
    warnings.formatwarning = lambda message, *_: f"{NAME}: warning: {' '.join(str(message).split())}\n"
    status = _run(list(sys.argv[1:] if arguments is None else arguments))
    if status in (128 + signal.SIGINT, 128 + signal.SIGTERM):
        print("\ninterrupted; give the same command again", file=sys.stderr)
    sys.exit(status)


def _run(arguments: list[str]) -> Any:
    """The exit status of a call."""
    command = typer.main.get_command(app)
    try:
        return command.main(arguments, NAME, standalone_mode=False)
    except SystemExit as stop:  # SIGTERM, or nobody reads on (`| head`)
        return stop.code
    except Exception as problem:
        if hasattr(problem, "show"):  # a wrong usage; the class is click's, or Typer's copy of it
            problem.show()
            return problem.exit_code
        if "--traceback" in arguments:
            traceback.print_exc()
        error = problem.__cause__ if isinstance(problem, typer.Abort) else problem  # made by Typer of an EOFError
        verb = next((command.commands[word] for word in arguments if word in command.commands), None)
        print(f"{NAME}: error: {_with_flags(_one_line(error), verb)}", file=sys.stderr)
        return 1


def _one_line(error: Any) -> str:
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    text = " ".join(text.split())
    if text and isinstance(error, _EXPLAINED):
        return text
    return f"{type(error).__name__}{': ' if text else ''}{text} (`{NAME} --traceback ...` shows where)"


def _with_flags(text: str, verb: Any) -> str:
    """Calls and arguments of Python in a message as verbs and flags: ``overwrite=True`` is ``--overwrite``."""
    for call, here in _CALLS.items():
        text = re.sub(call, here, text)
    for option in [] if verb is None else verb.params:
        if option.param_type_name == "option":
            text = re.sub(rf"(?<![-\w]){option.name}(=True|(?= must ))", option.opts[0], text)
            text = re.sub(rf"(?<![-\w]){option.name}=", f"{option.opts[0]} ", text)
    return text
