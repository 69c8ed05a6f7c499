"""Work in processes of its own: done once, or ready to run again in every round."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Run = Callable[[], np.ndarray]
"""Computes once and returns, when all is done, the numbers that implementations have in common."""

_SPAWN = multiprocessing.get_context("spawn")
_USUAL = multiprocessing.get_all_start_methods()[0]  # of this platform and Python
_GRACE = 5  # seconds in which a process may end by itself
_PAUSE = 0.05  # seconds after a run in which its threads come to rest


class UnavailableError(Exception):
    """An implementation is not installed, or has no such network."""


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Calls a function in a fresh process, whose memory goes with it."""
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=_SPAWN) as pool:
        return pool.submit(function, *arguments).result()


class LateError(UnavailableError):
    """An implementation was not ready in time."""


class Worker:
    """An implementation in a process of its own, which waits until it is told to run.

    Attributes:
        first: the numbers of its first run.
        first_seconds: that this run took, with what was compiled for it.
        idle: the largest share of a core that it used while it waited.
    """

    def __init__(
        self,
        build: Callable[..., Run],
        *arguments: Any,
        environment: Mapping[str, str] | None = None,
        seconds: float = 600,
    ):
        """Starts it and waits until it has run once.

        Args:
            build: makes it ready.
            arguments: of `build`.
            environment: variables that the process needs.
            seconds: that this may take.

        Raises:
            LateError: if it takes longer.
            UnavailableError: if it does not come to be for another reason.
        """
        self._connection, theirs = _SPAWN.Pipe()
        # No daemon: pytorch-fid starts processes of its own.
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
        """Lets it compute once; returns the seconds that took."""
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
    """The process: makes an implementation ready, then runs it as often as it is told to."""
    os.environ.update(environment)
    # A process that was spawned spawns; a program of its own starts its processes as usual here.
    multiprocessing.set_start_method(_USUAL, force=True)
    try:
        run = build(*arguments)
        start = time.perf_counter()
        connection.send(("", run(), time.perf_counter() - start))
    except UnavailableError as reason:
        connection.send((str(reason), None, 0.0))
        return
    except Exception as error:  # of a library that this benchmark does not know
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
        run()
        connection.send((time.perf_counter() - now, idle))


def in_turn(
    workers: Mapping[str, Worker], rounds: int, done: Callable[[], Any]
) -> dict[str, list[float]]:
    """Runs each once in every round, while the others wait; returns the seconds of all rounds.

    What else the machine does meets all alike, so ratios are to be taken within a round.

    Args:
        workers: by name.
        rounds: how many.
        done: called after each run.
    """
    seconds: dict[str, list[float]] = {name: [] for name in workers}
    for _ in range(rounds):
        for name, worker in workers.items():
            seconds[name].append(worker.run())
            done()
    return seconds
