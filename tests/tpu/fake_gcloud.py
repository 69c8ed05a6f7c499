"""A `gcloud` that has no cloud: it writes down what it is asked, and answers from a script.

`$FAKE_GCLOUD/answers.json` holds, for a command such as "queued-resources describe", a list of
answers {"out", "err", "code", "seconds"}, given one after another; the last is given again. A
command without answers succeeds in silence.

With `$FAKE_GCLOUD/workers/N/` folders, `scp` and `ssh` reach those as home folders of workers, on
this machine; describing and creating then follow `$FAKE_GCLOUD/state`, and what the workers copy to
a bucket lies in `$FAKE_GCLOUD/bucket/`.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

FOLDER = Path(os.environ["FAKE_GCLOUD"])
NOT_FOUND = "ERROR: (gcloud.compute.tpus) NOT_FOUND: Resource 'it' was not found"


def main(argv: list[str]) -> int:
    """Answers a command line."""
    if argv[:2] == ["storage", "cp"]:
        target = FOLDER / "bucket" / argv[-1].removeprefix("gs://")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(argv[-2], target)
        return 0
    with (FOLDER / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with (FOLDER / "calls.jsonl").open("a") as calls:
            calls.write(json.dumps(["gcloud", *argv]) + "\n")
        command = " ".join(argv[2:4])
        answer = _next_answer(command)
    if (FOLDER / "workers").is_dir():
        return _with_workers(command, argv[4:])
    time.sleep(answer.get("seconds", 0))
    print(answer.get("out", ""), flush=True)
    print(answer.get("err", ""), file=sys.stderr)
    return answer.get("code", 0)


def _next_answer(command: str) -> dict:
    path = FOLDER / "answers.json"
    answers = json.loads(path.read_text()) if path.exists() else {}
    mine = answers.get(command, [{}])
    answer = mine.pop(0) if len(mine) > 1 else mine[0]
    path.write_text(json.dumps(answers))
    return answer


def _with_workers(command: str, rest: list[str]) -> int:
    state = FOLDER / "state"
    options = dict(word[2:].split("=", 1) for word in rest if word.startswith("--") and "=" in word)
    if command == "queued-resources describe":
        if not state.exists():
            print(NOT_FOUND, file=sys.stderr)
            return 1
        print(state.read_text())
    elif command == "queued-resources create":
        state.write_text("ACTIVE")
    elif command == "queued-resources delete":  # the machines go with all that is on them
        state.unlink()
        for home in _homes():
            shutil.rmtree(home)
            home.mkdir()
    elif not state.exists() or state.read_text() != "ACTIVE":
        print("ssh: connect to host port 22: Connection refused", file=sys.stderr)
        return 255
    elif command == "tpu-vm scp":
        source, target = rest[0], rest[1].partition(":")[2]
        for home in _homes():
            shutil.copy(source, home / target)
    elif command == "tpu-vm ssh":
        chosen = _homes() if options["worker"] == "all" else [_homes()[int(options["worker"])]]
        runs = [_on_worker(home, options["command"]) for home in chosen]
        return max(run.wait() for run in runs)
    return 0


def _homes() -> list[Path]:
    return sorted((FOLDER / "workers").iterdir())


def _on_worker(home: Path, command: str) -> subprocess.Popen:
    """A shell as ssh opens it, in a job that Slurm seems to have started."""
    homes = _homes()
    env = {
        **os.environ,
        "HOME": str(home),
        "PATH": f"{FOLDER / 'worker_bin'}:{os.environ['PATH']}",
        "SLURM_JOB_ID": os.environ["FAKE_SLURM_JOB"],
        "SLURM_STEP_NODELIST": "localhost",
        "SLURM_STEP_NUM_TASKS": str(len(homes)),
        "SLURM_NTASKS": str(len(homes)),
        "SLURM_PROCID": str(homes.index(home)),
        "SLURM_LOCALID": str(homes.index(home)),
    }
    return subprocess.Popen(["bash", "-c", command], cwd=home, env=env)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
