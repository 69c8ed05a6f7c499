"""Starts many training runs of the small network in `tiny.py`, and imports everything only once.

`Runs` starts a process that imports the training programme, and then forks for each run. Forking is
safe, because JAX starts no threads before it is asked for devices. As a run starts with everything
imported, no signal of a test can reach it during imports.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


class Run:
    """A training run in its own process, with an interface like `subprocess.Popen`.

    `Runs.start` makes it.

    Args:
        runs: object that has started the run.
        pid: ID of the process.
        out: named pipe of the run's standard output.
        err: named pipe of the run's standard error.
    """

    def __init__(self, runs: Runs, pid: int, out: Path, err: Path):
        self._runs, self.pid, self.returncode = runs, pid, None
        self.stdout, self._stderr = out.open(), err.open()
        self._lines: list[str] = []
        self._reader = threading.Thread(target=lambda: self._lines.extend(self._stderr))
        self._reader.start()

    def send_signal(self, number: int) -> None:
        """Sends a signal, unless the run has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def poll(self) -> int | None:
        """Returns the exit code, or None if the run has not ended."""
        if self.returncode is None:
            self.returncode = self._runs.ask(poll=self.pid)
        return self.returncode

    def end(self, seconds: float) -> tuple[str, str]:
        """Waits until the run ends; returns the rest of its stdout, and all of its stderr.

        Raises:
            TimeoutError: if the run does not end within `seconds`. It is then killed.
        """
        until = time.monotonic() + seconds
        left: list[str] = []
        reader = threading.Thread(target=lambda: left.extend(self.stdout))
        reader.start()
        while self.poll() is None:
            if time.monotonic() > until:
                self.send_signal(signal.SIGKILL)
                raise TimeoutError(f"it does not end within {seconds} s")
            time.sleep(0.05)
        for thread in (reader, self._reader):
            thread.join(10)
        self.stdout.close()
        self._stderr.close()
        return "".join(left), "".join(self._lines)


class Runs(contextlib.AbstractContextManager):
    """A context manager that starts training runs.

    Args:
        environment: environment variables of all runs.
    """

    def __init__(self, environment: dict[str, str]):
        self._count = 0
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            cwd=ROOT,
            env=environment,
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def __exit__(self, *_: object) -> None:
        self._process.__exit__(None, None, None)  # closes the input of the process, which then ends

    def ask(self, **order: Any) -> Any:
        """Sends a request to the process that forks; returns its answer.

        Args:
            **order: the request: either `poll`, the process ID of a run; or `start`, the
                command-line options of a new run, with `folder`, `pipes` (paths for standard output
                and standard error) and `file_size`.

        Returns:
            For `poll`, the exit code, or None if the run has not ended. For `start`, the process
            ID.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(json.dumps(order), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())

    def start(self, folder: Path, options: list[str], file_size: int | None = None) -> Run:
        """Starts a run and returns it.

        Args:
            folder: working directory of the run.
            options: command-line options.
            file_size: largest size of a file in bytes, to simulate a full disk.
        """
        self._count += 1
        pipes = [folder / f".{name}{self._count}" for name in ("out", "err")]
        for pipe in pipes:
            os.mkfifo(pipe)
        pid = self.ask(
            start=options, folder=str(folder), pipes=list(map(str, pipes)), file_size=file_size
        )
        return Run(self, pid, *pipes)


def _serve() -> None:
    import train.dispatch  # noqa: F401
    from tests.helpers import tiny

    answers = sys.stdout
    for line in sys.stdin:
        order = json.loads(line)
        if "poll" in order:
            pid, status = os.waitpid(order["poll"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        else:
            answer = os.fork()
            if answer == 0:
                _become(order)
                sys.exit(tiny.entry.run(tiny.run))
        print(json.dumps(answer), file=answers, flush=True)


def _become(order: dict[str, Any]) -> None:
    """Makes this process the run that the request describes.

    Sets the working directory, standard streams, arguments and the limit of file sizes.
    """
    os.chdir(order["folder"])
    for number, name in enumerate([os.devnull, *order["pipes"]]):
        descriptor = os.open(name, os.O_RDONLY if number == 0 else os.O_WRONLY)
        os.dup2(descriptor, number)
        os.close(descriptor)
    sys.stdin = open(0)  # noqa: SIM115
    sys.stdout = open(1, "w")  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1)  # noqa: SIM115
    sys.argv = ["train/main.py", *order["start"]]
    if order["file_size"]:
        _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (order["file_size"], hard))


if __name__ == "__main__":
    _serve()
