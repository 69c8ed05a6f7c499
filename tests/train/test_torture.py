"""Tests runs with random mishaps, such as kills, full disks and damaged files.

`pytest -m torture` makes `TORTURE_DRAWS` random trials (default: 20), called draws, with the seed
`TORTURE_SEED` (default: random), and prints how many passed. A draw trains the three-layer network
of `tests/helpers/tiny.py` in separate processes, with one or two mishaps. It restarts the training
until it finishes. The result and the weights must equal those of an uninterrupted run exactly.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from tests.helpers.many_runs import Run, Runs

pytestmark = pytest.mark.torture

ROOT = Path(__file__).parents[2]
STEPS = 160
OPTIONS = ["--arch", "tiny", "--dataset", "folder", "--data-dir", "pets", "--batch-size", "4",
           "--steps", str(STEPS), "--checkpoint-every", "20", "--eval-every", "5", "--log-every",
           "10", "--no-tensorboard"]  # fmt: skip


def images(root: Path, *classes: str, count: int = 12) -> None:
    """Writes images of random noise as root/CLASS/NUMBER.png."""
    rng = np.random.default_rng(len(classes))
    for name in classes:
        (root / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 255, (20, 20, 3), np.uint8)
            Image.fromarray(pixels).save(root / name / f"{i}.png")


class Draw:
    """A random trial: runs in one workdir, and methods for the mishaps of these runs.

    Args:
        folder: folder of the images and the workdir.
        runs: object that starts the runs.
        seed: seed of all random choices.
    """

    def __init__(self, folder: Path, runs: Runs, seed: str):
        self.folder, self.runs, self.random = folder, runs, random.Random(seed)
        self.workdir = folder / "w"
        self.story: list[str] = []
        images(folder / "pets", "cat", "dog")

    def start(self, *more: str, file_size: int | None = None) -> Run:
        return self.runs.start(self.folder, [*OPTIONS, "--workdir", "w", *more], file_size)

    def end(self, process: Run, *codes: int) -> tuple[str, str]:
        """Waits for a process to end; checks its exit code against `codes`, and its last line.

        If the process failed, the last line must be its only line that starts with "error: ".

        Returns the process's standard output and standard error.
        """
        out, err = process.end(100)
        code = process.returncode
        self.story.append(f"exit {code}: {(err.splitlines() or ['nothing'])[-1][:150]}")
        assert code in codes, (code, err[-2000:])
        assert "Traceback" not in err, err[-2000:]
        lines = err.splitlines()
        by_signal = code in (-signal.SIGKILL, -signal.SIGSEGV, -signal.SIGABRT)
        if by_signal and (not lines or (self.workdir / "result.json").exists()):
            return out, err  # it ended before the writer of the last line started, or at the end
        if code not in (0, 42):
            assert lines, "no line"
            assert lines[-1].startswith("error: "), lines[-1]
            assert sum(line.startswith("error: ") for line in lines) == 1, err[-2000:]
        assert len(lines) < 12, err[:2000]
        return out, err

    def steps(self) -> list[Path]:
        found = (self.workdir / "checkpoints").glob("*")
        return sorted((p for p in found if p.name.isdigit()), key=lambda p: int(p.name))

    def moment(self, process: Run) -> None:
        """Waits until a random moment of a run: while it starts, trains, or saves."""
        if self.random.random() < 0.3:
            time.sleep(self.random.uniform(0.1, 3))
            return
        lines = self.random.randint(1, STEPS // 10)
        for line in process.stdout:
            lines -= line.startswith("step ")
            if lines <= 0:
                break
        time.sleep(self.random.uniform(0, 0.1))

    # ---- Mishaps ----

    def killed(self) -> None:
        process = self.start()
        self.moment(process)
        process.send_signal(signal.SIGKILL)
        self.end(process, -signal.SIGKILL, 0)

    def terminated(self) -> None:
        process = self.start()
        self.moment(process)
        process.send_signal(signal.SIGTERM)
        self.end(process, 42, 0)

    def terminated_at_once(self) -> None:
        process = self.start()
        time.sleep(self.random.uniform(0.1, 1))
        process.send_signal(signal.SIGTERM)
        self.end(process, 42, 0)

    def aborted(self) -> None:
        process = self.start()
        self.moment(process)
        process.send_signal(self.random.choice([signal.SIGABRT, signal.SIGSEGV, signal.SIGINT]))
        self.end(process, -signal.SIGABRT, -signal.SIGSEGV, 1, 0)

    def slept(self) -> None:
        process = self.start()
        self.moment(process)
        process.send_signal(signal.SIGSTOP)
        second = self.start()
        _, err = self.end(second, 2, 0)
        if second.returncode == 2:
            assert f"process {process.pid}" in err
        process.send_signal(signal.SIGCONT)
        process.send_signal(signal.SIGKILL)
        self.end(process, -signal.SIGKILL, 0)

    def two_at_once(self) -> None:
        first, second = self.start(), self.start()
        self.end(first, 0, 2)
        self.end(second, 0, 2)
        assert 0 in (first.returncode, second.returncode)

    def full_disk(self) -> None:
        for _ in range(2):
            size = 1024 * self.random.randint(1, 60)
            self.end(self.start(file_size=size), 1, 0)

    def damaged(self) -> None:
        """Damages some files of the newest checkpoint, if there is an older one.

        Before this, starts the run and ends it with SIGTERM at a random moment.
        """
        self.terminated()
        if len(steps := self.steps()) < 2:
            return
        for path in self.files(steps[-1]):
            if self.random.random() < 0.5:
                self.damage(path)

    def all_damaged(self) -> None:
        """Damages every checkpoint of a run, and restores them afterwards.

        Before this, starts the run and ends it with SIGTERM. With the damaged checkpoints, the run
        must fail and keep the checkpoint folders.
        """
        self.terminated()
        copy = self.folder / "copy"
        shutil.rmtree(copy, ignore_errors=True)
        if not self.steps():
            return
        shutil.copytree(self.workdir / "checkpoints", copy)
        for step in self.steps():
            largest = max(self.files(step), key=lambda path: path.stat().st_size)
            largest.write_bytes(largest.read_bytes()[:20])
        self.end(self.start(), 1)
        self.end(self.start("--eval-only"), 1)
        assert [p.name for p in self.steps()] == [p.name for p in sorted(
            copy.iterdir(), key=lambda p: int(p.name) if p.name.isdigit() else -1)
            if p.name.isdigit()]  # fmt: skip
        shutil.rmtree(self.workdir / "checkpoints")
        shutil.copytree(copy, self.workdir / "checkpoints")

    def other_project(self) -> None:
        classes = self.random.choice([("ant", "bee"), ("ant", "bee", "cow"), ("cat", "eel")])
        self.terminated()
        with self.other_images():
            images(self.folder / "pets", *classes)
            if self.steps():
                _, err = self.end(self.start(), 2)
                assert "another project" in err

    def changed_images(self) -> None:
        self.terminated()
        if not self.steps():
            return
        with self.other_images():
            shutil.copytree(self.folder / "aside", self.folder / "pets")
            shutil.copy(self.folder / "pets/cat/0.png", self.folder / "pets/cat/new.png")
            self.end(self.start(), 2)

    def lost_files(self) -> None:
        self.terminated()
        for name in ("run.json", "config.json", "result.json"):
            path = self.workdir / name
            if path.exists() and self.random.random() < 0.6:
                self.damage(path)
        if self.steps():
            self.end(self.start("--seed", "7"), 2)

    def files(self, step: Path) -> list[Path]:
        return [p for p in sorted(step.rglob("*")) if p.is_file() and p.stat().st_size]

    def damage(self, path: Path) -> None:
        content = path.read_bytes()
        how = self.random.choice(["delete", "empty", "cut", "noise"])
        self.story.append(f"{how} {path.name}")
        if how == "delete":
            path.unlink()
        elif how == "noise":
            path.write_bytes(self.random.randbytes(len(content)))
        else:
            path.write_bytes(content[: len(content) // 2] if how == "cut" else b"")

    @contextlib.contextmanager
    def other_images(self) -> Iterator[None]:
        shutil.move(self.folder / "pets", self.folder / "aside")
        yield
        shutil.rmtree(self.folder / "pets")
        shutil.move(self.folder / "aside", self.folder / "pets")

    def finish(self) -> None:
        """Starts the run up to three times, until it finishes.

        Raises:
            AssertionError: if it does not finish.
        """
        for _ in range(3):
            process = self.start()
            self.end(process, 0, 42)
            if process.returncode == 0:
                return
        raise AssertionError("it does not end")


MISHAPS: list[Callable[[Draw], Any]] = [
    Draw.killed, Draw.killed, Draw.terminated, Draw.terminated_at_once, Draw.aborted, Draw.slept,
    Draw.two_at_once, Draw.full_disk, Draw.damaged, Draw.all_damaged, Draw.other_project,
    Draw.changed_images, Draw.lost_files,
]  # fmt: skip


def outcome(workdir: Path) -> tuple[dict[str, np.ndarray], list[Any], Any]:
    """Returns the weights, the logged losses and the result of a run.

    The losses are pairs of step and loss. The result is the content of `result.json`.
    """
    lines = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    losses = [(line["step"], line["loss"]) for line in lines if line["kind"] == "train"]
    result = json.loads((workdir / "result.json").read_text())
    return safetensors.numpy.load_file(workdir / "weights.safetensors"), losses, result


def test_torture(tmp_path, capsys):
    draws = int(os.environ.get("TORTURE_DRAWS", "20"))
    seed = os.environ.get("TORTURE_SEED") or str(random.randrange(1 << 32))
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "XLA_FLAGS": "",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "JAX_COMPILATION_CACHE_DIR": str(tmp_path / "cache"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    with Runs(environment) as runs:
        torture(tmp_path, capsys, runs, draws, seed)


def torture(tmp_path, capsys, runs, draws, seed):
    straight = Draw(tmp_path / "straight", runs, seed)
    straight.finish()
    weights, _, result = outcome(straight.workdir)
    started, wrong = time.monotonic(), []
    for number in range(draws):
        draw = Draw(tmp_path / str(number), runs, f"{seed}/{number}")
        names = []
        try:
            for _ in range(draw.random.choice([1, 1, 2])):
                mishap = draw.random.choice(MISHAPS)
                names.append(mishap.__name__)
                mishap(draw)
            draw.finish()
            found, _, ended = outcome(draw.workdir)
            assert {**ended, "train_loss": 0} == {**result, "train_loss": 0}
            for name in weights:
                np.testing.assert_array_equal(found[name], weights[name], name)
            assert not (draw.workdir / "run.lock").exists()
        except (AssertionError, TimeoutError) as error:
            text = "\n    ".join([*draw.story, str(error)])
            wrong.append(f"draw {number}, {', '.join(names)}:\n    {text}")
        ending = "wrong" if wrong and wrong[-1].startswith(f"draw {number},") else "right"
        with capsys.disabled():
            print(f"  {number}: {', '.join(names)}: {ending}", flush=True)
        shutil.rmtree(draw.folder)
    summary = (
        f"torture: {draws - len(wrong)} of {draws} ended right, TORTURE_SEED={seed}, "
        f"{time.monotonic() - started:.0f} s"
    )
    with capsys.disabled():
        print(summary)
    assert not wrong, "\n".join([summary, *wrong])
