"""Runs the program from its start to its exit code."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable

from train.ending import last_line, logs, sigterm, trace

# Seconds for the process to end after its last line. A thread that waits for a hanging disk would
# keep it alive forever.
_SECONDS_TO_END = 10.0


def run(main: Callable[[], int]) -> int:
    """Runs the program, prints at most one last line, and makes sure that the process ends.

    If the process has not ended some seconds after the return, a timer ends it.

    Args:
        main: function that imports the slow modules, does the work, and returns the exit code.

    Returns:
        The exit code.
    """
    try:
        _begin()
        code = main()
    except KeyboardInterrupt:
        last_line.say("error: interrupted; the same command starts again")
        code = 1
    except Exception as error:  # raised by an import, or by the handling of another error
        path = trace.write(error, None)
        where = f" (trace: {path})" if path else ""
        last_line.say(f"error: {type(error).__name__}: {error}{where}")
        code = 1
    except SystemExit as error:  # --help, and errors of the command line
        code = error.code if isinstance(error.code, int) else 1
    last_line.say(None)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # Python drops its handlers while it exits
    sigterm.end_within(_SECONDS_TO_END, code)
    return code


def _begin() -> None:
    verbose = "--verbose" in sys.argv
    with sigterm.held_back():  # the handler must not run right after the fork
        sigterm.install()
        last_line.begin(verbose=verbose)
    sigterm.watch()
    logs.begin(verbose=verbose)
