"""Runs functions in separate processes, once or in several rounds."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Run = Callable[[], np.ndarray]
"""Function that computes once, waits for the end, and returns results for a comparison."""

_SPAWN = multiprocessing.get_context("spawn")
_USUAL = multiprocessing.get_all_start_methods()[0]  # default for this platform and Python
_GRACE = 5  # seconds for a process to end by itself
_LEAST = 0.25  # seconds that a measurement takes; shorter runs are repeated
_PAUSE = 0.05  # seconds after a run for its threads to become idle


class UnavailableError(Exception):
    """An implementation cannot run, for example because it is not installed."""


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function in a new process, whose memory is freed at the end; returns the result."""
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=_SPAWN) as pool:
        return pool.submit(function, *arguments).result()


class LateError(UnavailableError):
    """An implementation was not ready in time."""


class Worker:
    """An implementation in its own process, which waits until `run` is called.

    Attributes:
        first: results of the first run.
        first_seconds: seconds of the first run, including compilation.
        idle: largest share of a core that the process used while it waited.
    """

    def __init__(
        self,
        build: Callable[..., Run],
        *arguments: Any,
        environment: Mapping[str, str] | None = None,
        seconds: float = 600,
    ):
        """Starts the process, and waits until the implementation has run once.

        Args:
            build: function that returns the function to run.
            arguments: arguments of `build`.
            environment: environment variables to set in the process, besides the inherited ones.
            seconds: time limit for `build` and the first run together.

        Raises:
            LateError: if `build` and the first run take longer than the limit.
            UnavailableError: if `build` or the first run fails.
        """
        self._connection, theirs = _SPAWN.Pipe()
        # Not a daemon, because pytorch-fid starts its own processes.
        self._process = _SPAWN.Process(
            target=_serve, args=(theirs, dict(environment or {}), build, *arguments)
        )
        self._process.start()
        theirs.close()
        self.idle = 0.0
        try:
            if not self._connection.poll(seconds):
                raise LateError(f"not ready after {seconds / 60:.1f} minutes")
            reason, self.first, self.first_seconds = self._connection.recv()
            if reason:
                raise UnavailableError(reason)
        except LateError:
            self.end()
            raise
        except (UnavailableError, EOFError) as error:
            self.end()
            raise UnavailableError(str(error) or f"exit code {self._process.exitcode}") from None

    def run(self) -> float:
        """Runs the implementation, repeatedly if it is fast; returns the seconds of a run."""
        self._connection.send("run")
        seconds, idle = self._connection.recv()
        self.idle = max(self.idle, idle)
        time.sleep(_PAUSE)
        return seconds

    def end(self) -> None:
        """Ends the process."""
        self._connection.close()
        self._process.join(_GRACE)
        self._process.kill()
        self._process.join()


def _serve(
    connection: Any, environment: Mapping[str, str], build: Callable[..., Run], *arguments: Any
) -> None:
    """Main function of a worker's process: builds the implementation, then runs it on request.

    `connection` is the process's end of a pipe to the `Worker`. The other arguments are those of
    `Worker`.
    """
    os.environ.update(environment)
    # A spawned process also spawns its own processes by default. Implementations have to start
    # processes by the platform's default method.
    multiprocessing.set_start_method(_USUAL, force=True)
    try:
        run = build(*arguments)
        start = time.perf_counter()
        connection.send(("", run(), time.perf_counter() - start))
    except UnavailableError as reason:
        connection.send((str(reason), None, 0.0))
        return
    except Exception as error:  # any library may raise any error
        connection.send((f"{type(error).__name__}: {error}"[:300], None, 0.0))
        return
    while True:
        used, start = time.process_time(), time.perf_counter()
        try:
            connection.recv()
        except EOFError:
            return
        now = time.perf_counter()
        idle = (time.process_time() - used) / max(now - start, _PAUSE)
        runs, end = 0, now
        while end - now < _LEAST:
            run()
            runs, end = runs + 1, time.perf_counter()
        connection.send(((end - now) / runs, idle))


def in_turn(
    workers: Mapping[str, Worker], rounds: int, done: Callable[[], Any]
) -> dict[str, list[float]]:
    """Runs all workers in every round, one at a time.

    Other work on the machine affects all workers equally, so compare times of the same round.

    Args:
        workers: workers by name.
        rounds: number of rounds.
        done: function that is called after each run.

    Returns:
        Seconds of each round, by name of the worker.
    """
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            seconds[name].append(worker.run())
            done()
    return seconds
