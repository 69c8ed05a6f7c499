"""One run at a time in a workdir: `run.lock` names the process that works there.

The file is created exclusively, which holds on network file systems and in buckets too, and its
time of change is a heartbeat. Times are compared with each other only, never with this machine's
clock.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import socket
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from train import storage
from train.ending import sigterm
from train.errors import TrainingError, UsageError

_NAME = "run.lock"
_HEARTBEAT_SECONDS = 5.0
_STALE_SECONDS = 120.0  # mounted buckets remember times for a minute
_PARTIAL = ".[0-9]*.*"  # what `outputs.atomic_write` leaves if the process is killed


@dataclasses.dataclass(frozen=True)
class Holder:
    """The process that a lock names.

    Attributes:
        host: its name.
        pid: number of the process there.
        started: when the lock was taken, UTC.
        token: another one for every lock.
        machine: boot and process namespace, in which the number means a process.
        born: when the process started, in the system's ticks; None if the system does not tell.
    """

    host: str
    pid: int
    started: str
    token: str
    machine: str
    born: int | None

    @classmethod
    def this(cls) -> Holder:
        """Returns a new holder for this process."""
        return cls(
            socket.gethostname(),
            os.getpid(),
            f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S}",
            uuid.uuid4().hex,
            _machine(),
            _born(os.getpid()),
        )

    def __str__(self) -> str:
        return f"process {self.pid} on {self.host}, since {self.started} UTC"

    def is_dead(self) -> bool:
        """Returns whether the process has certainly ended: only its own machine can know."""
        if self.machine != _machine() or self.host != socket.gethostname():
            return False
        if self.born is not None:
            return _born(self.pid) != self.born
        try:
            os.kill(self.pid, 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return self.pid == os.getpid()


class Lock:
    """The lock of a workdir, held by this process until `release`.

    Args:
        workdir: an existing folder.

    Raises:
        UsageError: if another run works there.
        OSError: if the lock cannot be written.
    """

    def __init__(self, workdir: Path):
        self._path = workdir / _NAME
        self._own = Holder.this()
        self._text = json.dumps(dataclasses.asdict(self._own))
        while not storage.create(self._path, self._text):
            self._take_over()
        for path in workdir.glob(_PARTIAL):
            path.unlink(missing_ok=True)
        self._ended = threading.Event()
        self._heart = threading.Thread(target=self._beat, name="run.lock", daemon=True)
        self._heart.start()
        sigterm.before_hard_end(self.release)

    def check(self) -> None:
        """Makes sure that nobody has taken the lock, as after a long sleep of this machine.

        Raises:
            TrainingError: if somebody has.
        """
        holder = _read(self._path)
        if holder is not None and holder.token != self._own.token:
            raise TrainingError(
                f"{self._path.parent} was taken over by {holder} while this process gave no sign "
                "of life; this one ends without saving"
            )

    def release(self) -> None:
        """Deletes the lock if it is still this process's."""
        self._ended.set()
        if storage.is_remote(self._path):  # a beat on its way would create the lock again
            self._heart.join(_HEARTBEAT_SECONDS)
        holder = _read(self._path)
        if holder is not None and holder.token == self._own.token:
            self._path.unlink(missing_ok=True)

    def _take_over(self) -> None:
        """Removes the lock of a process that has ended; returns if it is gone."""
        try:
            holder, reason = self._dead_holder()
        except FileNotFoundError:
            return
        if storage.is_remote(self._path):
            if storage.remove_if(self._path, lambda text: _parsed(text) == holder):
                _report(holder, reason)
            return
        aside = self._path.with_name(f"{_NAME}.{self._own.token}")
        try:
            self._path.rename(aside)  # of several that try, one succeeds
        except FileNotFoundError:
            return
        moved = _read(aside)
        if moved != holder:  # another one was faster, and this is its lock
            with contextlib.suppress(FileExistsError):
                os.link(aside, self._path)
            aside.unlink()
            return
        aside.unlink()
        _report(holder, reason)

    def _dead_holder(self) -> tuple[Holder | None, str]:
        """Returns whose lock it is, and how it is known that the process has ended.

        Raises:
            UsageError: if it has not.
            FileNotFoundError: if there is no lock any more.
        """
        holder = _read(self._path)
        if holder is not None and holder.is_dead():
            return holder, "it has ended"
        first, end = storage.changed(self._path), time.monotonic() + _STALE_SECONDS
        if holder is not None and holder.machine == _machine():
            raise self._in_use(holder)
        said = False
        while time.monotonic() < end:
            if _now(self._path.parent) - first > _STALE_SECONDS:
                break
            if not said:
                print(
                    f"{self._path.parent} is locked by {holder}; waiting up to "
                    f"{_STALE_SECONDS:.0f} s for a sign of life",
                    file=sys.stderr,
                )
            said = True
            time.sleep(_HEARTBEAT_SECONDS / 5)
            if storage.changed(self._path) != first or _read(self._path) != holder:
                raise self._in_use(_read(self._path) or holder)
        return holder, f"no sign of life for {_STALE_SECONDS:.0f} s"

    def _in_use(self, holder: Holder | None) -> UsageError:
        return UsageError(
            f"--workdir {self._path.parent} is in use by another run ({holder}): wait for its end, "
            "or give another --workdir"
        )

    def _beat(self) -> None:
        while not self._ended.wait(_HEARTBEAT_SECONDS):
            with contextlib.suppress(Exception):  # `check` finds a lock that is lost
                holder = _read(self._path)
                if holder is not None and holder.token == self._own.token:
                    storage.touch(self._path, self._text)


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[Lock]:
    """Holds the lock of a workdir in the body.

    Raises:
        UsageError: if another run works there.
    """
    lock = Lock(workdir)
    try:
        yield lock
    finally:
        lock.release()


def _read(path: Path) -> Holder | None:
    """Returns whom a lock names; None if that cannot be read, or there is no lock."""
    for _ in range(5):
        try:
            if holder := _parsed(path.read_text()):
                return holder
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            pass
        time.sleep(0.1)  # being written at this moment, or damaged
    return None


def _parsed(text: str) -> Holder | None:
    try:
        found: Any = json.loads(text)
        return Holder(**found)
    except (ValueError, TypeError):
        return None


def _report(holder: Holder | None, reason: str) -> None:
    who = holder or "a process that wrote no name"
    print(f"note: took over the lock of {who}: {reason}", file=sys.stderr)


def _now(folder: Path) -> float:
    """The time by the clock of the file system."""
    probe = folder / f".now.{uuid.uuid4().hex}"
    try:
        storage.create(probe, "")
        return storage.changed(probe)
    finally:
        probe.unlink(missing_ok=True)


def _machine() -> str:
    """Names what a process's number belongs to: containers have numbers of their own."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()


def _born(pid: int) -> int | None:
    try:
        # The name in parentheses may hold anything.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else int(fields[18])  # ended, and not yet waited for
    except (OSError, ValueError, IndexError):
        return None
