"""`error.log`: the full traceback of the error that ended a run."""

from __future__ import annotations

import contextlib
import datetime
import os
import sys
import tempfile
import traceback
from pathlib import Path

from train.ending import last_line, logs


def write(error: BaseException, folder: Path | None, process: int = 0) -> Path | None:
    """Writes the traceback of an error, and what libraries have logged and printed.

    Args:
        error: the error that ended the run.
        folder: the workdir. If it is None or cannot be written to, the file is written to the
            system's folder for temporary files, with the prefix `inception_jax-PID-` in its name.
        process: index of this process in the run. 0 writes `error.log`, 3 writes `error-3.log`.

    Returns:
        Path of the written file; None if it could not be written.
    """
    name = f"error-{process}.log" if process else "error.log"
    text = "\n".join(
        [
            f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S} UTC, process {os.getpid()}",
            f"command: {' '.join(sys.argv)}",
            "",
            "".join(traceback.format_exception(error)),
            "What libraries logged:",
            logs.kept(),
            last_line.native_output(),
        ]
    )
    elsewhere = Path(tempfile.gettempdir(), f"inception_jax-{os.getpid()}-{name}")
    for path in (folder / name if folder is not None else None, elsewhere):
        # The error to write down may itself be a full disk, or a bucket that does not answer.
        with contextlib.suppress(Exception):
            if path is not None and path.parent.is_dir():
                path.write_bytes(text.encode(errors="backslashreplace"))
                return path
    return None
