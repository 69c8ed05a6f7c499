"""Tests that a process that fails or is killed ends with one line on standard error.

Most tests start a small program without slow imports.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def started(tmp_path: Path, body: str, *options: str) -> subprocess.Popen[str]:
    """Starts a process that runs the Python code `body` through train/main.py's entry point.

    The process runs in `tmp_path`, with `options` in `sys.argv`.
    """
    program = (
        "import sys\n"
        "from train.ending import entry, last_line, sigterm\n"
        "def main():\n" + textwrap.indent(textwrap.dedent(body), "    ") + "\n    return 0\n"
        "sys.exit(entry.run(main))\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", program, *options],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def ended(tmp_path: Path, body: str, *options: str) -> tuple[int, str, str]:
    process = started(tmp_path, body, *options)
    out, err = process.communicate(timeout=60)
    return process.returncode, out, err


NOISE = """
    import logging, os, threading, warnings
    logging.getLogger("absl").warning("from absl")
    logging.getLogger("jax").error("from jax")
    warnings.warn("from a library")
    os.write(2, b"from native code\\n")
    thread = threading.Thread(target=lambda: 1 / 0)
    thread.start()
    thread.join()
"""
SOURCES = ("from absl", "from jax", "from a library", "from native code", "ZeroDivisionError")


def test_libraries_are_quiet(tmp_path):
    assert ended(tmp_path, NOISE) == (0, "", "")


def test_libraries_are_audible(tmp_path):
    code, out, err = ended(tmp_path, NOISE, "--verbose")
    assert (code, out) == (0, "")
    for source in SOURCES:
        assert source in err


def test_an_error_keeps_what_they_said(tmp_path):
    body = (
        NOISE
        + """
    from pathlib import Path
    from train.ending import trace
    try:
        raise OSError("broken")
    except OSError as error:
        print(trace.write(error, Path()))
    last_line.say("error: a\\n name with \\x1b[31m colour")
    last_line.say("error: another")
    return 1
    """
    )
    code, out, err = ended(tmp_path, body)
    assert (code, out, err) == (1, "error.log\n", "error: a; name with \\x1b[31m colour\n")
    trace = (tmp_path / "error.log").read_text()
    for source in (*SOURCES, "OSError: broken"):
        assert source in trace


@pytest.mark.parametrize("number", [signal.SIGABRT, signal.SIGSEGV, signal.SIGKILL])
def test_a_process_that_is_ended_has_a_last_line(tmp_path, number):
    body = f"""
    import os
    from pathlib import Path
    last_line.workdir(Path())
    print("result", flush=True)
    os.kill(os.getpid(), {int(number)})
    """
    code, out, err = ended(tmp_path, body)
    assert (code, out) == (-number, "result\n")
    assert err.count("\n") == 1
    assert err.startswith("error: ")
    assert "resumes" in err
    if number != signal.SIGKILL:  # no process can handle SIGKILL
        assert "error.log" in err
        assert "Fatal Python error" in (tmp_path / "error.log").read_text()


def test_a_coordinator_that_is_lost(tmp_path):
    body = """
    import os
    os.write(2, b"Terminating process because the JAX distributed service detected ...\\n")
    os._exit(1)
    """
    code, _, err = ended(tmp_path, body)
    assert (code, err.count("\n")) == (1, 1)
    assert "another process of the run is lost" in err


@pytest.mark.parametrize(
    "busy", ["time.sleep(60)", "hashlib.pbkdf2_hmac('sha256', b'', b'', 1 << 28)"]
)
def test_sigterm_with_nothing_to_save(tmp_path, busy):
    """SIGTERM ends the process at once, even if native code blocks Python's signal handlers."""
    process = started(tmp_path, f"import hashlib, time; print('here', flush=True); {busy}")
    assert process.stdout.readline() == "here\n"
    at = time.monotonic()
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - at < 10
    assert process.returncode == 42, err
    assert err == "SIGTERM before the first step: nothing is lost, the same command starts again\n"


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_sigterm_while_a_line_is_printed(tmp_path, stream):
    """SIGTERM during a write to a stream still ends the process with one line on standard error.

    The handler runs inside the write, and the stream refuses a second write.
    """
    body = f"""
    import io, os, signal
    class Raw(io.RawIOBase):
        def __init__(self, stream):
            self.fileno, self.writable = stream.fileno, lambda: True
        def write(self, data):
            os.kill(os.getpid(), signal.SIGTERM)
            return len(data)
    sys.{stream} = io.TextIOWrapper(io.BufferedWriter(Raw(sys.{stream})))
    print("here", file=sys.{stream}, flush=True)
    """
    code, _, err = ended(tmp_path, body)
    assert code == 42, err
    assert err == "SIGTERM before the first step: nothing is lost, the same command starts again\n"


def test_sigterm_with_something_to_save(tmp_path):
    body = """
    import time
    sigterm.save_first()
    print("here", flush=True)
    while not sigterm.received():
        time.sleep(0.05)
    last_line.say("SIGTERM: saved")
    return 42
    """
    process = started(tmp_path, body)
    process.stdout.readline()
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert (process.returncode, err) == (42, "SIGTERM: saved\n")


def test_a_thread_that_hangs_does_not_keep_the_process(tmp_path):
    body = """
    import threading
    from concurrent.futures import ThreadPoolExecutor
    entry._SECONDS_TO_END = 0.5
    ThreadPoolExecutor(1).submit(threading.Event().wait)
    return 42
    """
    at = time.monotonic()
    assert ended(tmp_path, body)[0] == 42
    assert time.monotonic() - at < 10


def test_sigterm_while_the_programme_imports(tmp_path):
    process = subprocess.Popen(
        [sys.executable, str(ROOT / "train/main.py"), "--workdir", "w"],
        cwd=tmp_path,
        text=True,
        stderr=subprocess.PIPE,
    )
    time.sleep(0.5)
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 42, err
    assert err.count("\n") == 1
    assert "nothing is lost" in err
    assert not (tmp_path / "w").exists()
