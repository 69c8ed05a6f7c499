"""Allows one run at a time in a workdir: `run.lock` names the process that uses the workdir.

A process creates the file only if there is none, which is atomic on network file systems and in
buckets too. While the process runs, it updates the file's modification time, as a heartbeat. Times
of files are compared only with each other, never with this machine's clock.
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
_STALE_SECONDS = 120.0  # mounted buckets cache times of files for a minute
_PARTIAL = ".[0-9]*.*"  # files that `outputs.atomic_write` leaves if the process is killed


@dataclasses.dataclass(frozen=True)
class Holder:
    """The process that a lock names.

    Attributes:
        host: name of the machine.
        pid: process id on that machine.
        started: time when the lock was taken, in UTC.
        token: random string, different for each lock.
        machine: boot id and PID namespace in which `pid` is valid.
        born: start time of the process, in clock ticks since boot; None if it is not known.
    """

    host: str
    pid: int
    started: str
    token: str
    machine: str
    born: int | None

    @classmethod
    def this(cls) -> Holder:
        """Returns a holder that describes this process, with a new token."""
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
        """Returns whether the process has certainly ended; False if it is on another machine."""
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
        workdir: path of an existing folder.

    Raises:
        UsageError: if another run uses the workdir.
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
        """Checks that no other process has taken the lock, for example while this machine slept.

        Raises:
            TrainingError: if another process has taken it.
        """
        holder = _read(self._path)
        if holder is not None and holder.token != self._own.token:
            raise TrainingError(
                f"{self._path.parent} was taken over by {holder} while this process did not "
                "respond; this process ends without saving"
            )

    def release(self) -> None:
        """Deletes the lock, if this process still holds it."""
        self._ended.set()
        if storage.is_remote(self._path):  # a pending heartbeat would create the lock again
            self._heart.join(_HEARTBEAT_SECONDS)
        holder = _read(self._path)
        if holder is not None and holder.token == self._own.token:
            self._path.unlink(missing_ok=True)

    def _take_over(self) -> None:
        """Removes the lock if its process has ended. Does nothing if there is no lock.

        A process on another machine counts as ended if it shows no sign of life for
        `_STALE_SECONDS`. This method waits for one as long.

        Raises:
            UsageError: if the process has not ended.
        """
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
            self._path.rename(aside)  # if several processes try, one succeeds
        except FileNotFoundError:
            return
        moved = _read(aside)
        if moved != holder:  # another process was faster, and this is its lock
            with contextlib.suppress(FileExistsError):
                os.link(aside, self._path)
            aside.unlink()
            return
        aside.unlink()
        _report(holder, reason)

    def _dead_holder(self) -> tuple[Holder | None, str]:
        """Returns the holder of the lock, and the reason why its process counts as ended.

        Raises:
            UsageError: if the process has not ended.
            FileNotFoundError: if the lock is gone.
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
            with contextlib.suppress(Exception):  # if the lock is lost, `check` notices
                holder = _read(self._path)
                if holder is not None and holder.token == self._own.token:
                    storage.touch(self._path, self._text)


@contextlib.contextmanager
def locked(workdir: Path) -> Iterator[Lock]:
    """Context manager: holds the lock of a workdir during the body, and yields the lock.

    Raises:
        UsageError: if another run uses the workdir.
    """
    lock = Lock(workdir)
    try:
        yield lock
    finally:
        lock.release()


def _read(path: Path) -> Holder | None:
    """Returns the holder that a lock file names; None if the file is missing or unreadable."""
    for _ in range(5):
        try:
            if holder := _parsed(path.read_text()):
                return holder
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            pass
        time.sleep(0.1)  # just being written, or damaged
    return None


def _parsed(text: str) -> Holder | None:
    try:
        found: Any = json.loads(text)
        return Holder(**found)
    except (ValueError, TypeError):
        return None


def _report(holder: Holder | None, reason: str) -> None:
    who = holder or "an unknown process"
    print(f"note: took over the lock of {who}: {reason}", file=sys.stderr)


def _now(folder: Path) -> float:
    """Returns the current time in seconds, by the clock of a folder's file system."""
    probe = folder / f".now.{uuid.uuid4().hex}"
    try:
        storage.create(probe, "")
        return storage.changed(probe)
    finally:
        probe.unlink(missing_ok=True)


def _machine() -> str:
    """Returns a string that identifies the boot and the PID namespace of this process."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"
    except OSError:  # not Linux
        return socket.gethostname()


def _born(pid: int) -> int | None:
    try:
        # The process name in parentheses may hold spaces and parentheses.
        state, *fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return None if state in "ZX" else int(fields[18])  # Z, X: ended, but not yet waited for
    except (OSError, ValueError, IndexError):
        return None
