"""Checks whether a workdir belongs to this run, and writes the run's description into it."""

from __future__ import annotations

import dataclasses
import datetime
import errno
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeGuard

import safetensors

from train import storage
from train.errors import TrainingError, UsageError
from train.storage import atomic_write
from train.workdir import identity
from train.workdir.identity import Identity

RUN, CONFIG = "run.json", "config.json"
_RESULTS = ("weights.safetensors", "result.json")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


@dataclasses.dataclass(frozen=True)
class Claim:
    """What `compare` found in a workdir that this run may use.

    Attributes:
        own: description of this run, with the list of changes to the image files.
        resumes: whether there are checkpoints to resume from.
        accepted: whether the images have changed and `--data-changed accept` allows it.
        notes: messages for the user.
    """

    own: Identity
    resumes: bool
    accepted: bool = False
    notes: tuple[str, ...] = ()


def prepare(workdir: Path) -> None:
    """Creates a workdir, and checks that it can be written to.

    Raises:
        UsageError: if the workdir cannot be created or written to.
        TrainingError: if its disk is full.
    """
    if storage.is_remote(workdir) and not str(workdir).startswith("gs://"):
        raise UsageError(
            f"--workdir {workdir}: checkpoints are written to a disk or to gs://BUCKET/FOLDER"
        )
    probe = workdir / ".writable"
    try:
        if not storage.is_remote(workdir):  # with a wrong name it would create a bucket
            workdir.mkdir(parents=True, exist_ok=True)
        probe.write_text("writable")
        probe.unlink()
    except Exception as error:  # errors of buckets have no base class of their own
        if getattr(error, "errno", None) in _NO_SPACE:
            raise full(workdir) from None
        raise UsageError(f"--workdir {workdir}: cannot be written to ({error})") from None


def full(workdir: Path) -> TrainingError:
    """Returns the error to raise if the disk of a workdir is full."""
    return TrainingError(
        f"no space left on the disk of {workdir}: free some; the same command then resumes from "
        "the last checkpoint"
    )


def compare(
    workdir: Path,
    config: Any,
    own: Identity,
    saved: Identity | None,
    *,
    evaluates: bool,
) -> Claim:
    """Compares this run with the one in a workdir, and returns a `Claim`. Changes no files.

    Args:
        workdir: folder of the run; need not exist.
        config: configuration of this run.
        own: description of this run.
        saved: description of the run in the newest checkpoint; None if there is none.
        evaluates: whether this run only evaluates, so that only the test images matter.

    Raises:
        UsageError: if the two runs are different, if the files in the workdir do not say which run
            they belong to, or if there are results without checkpoints.
    """
    resumes, results = has_checkpoints(workdir), _results(workdir)
    if not resumes and (not results or config.loop.start_over or evaluates):
        return Claim(own, False)
    stored = _read(workdir / RUN)
    copies = [copy for copy in (stored, saved) if _is_identity(copy)]
    elsewhere = f"give another --workdir, such as --workdir {free_name(workdir)}"
    for copy in copies:
        if other := identity.other_project(copy, own):
            raise UsageError(
                f"--workdir {workdir} belongs to another project: {other}: {elsewhere}"
            )
    if not copies and (other := _other_classes(workdir, own)):
        raise UsageError(f"--workdir {workdir} belongs to another project: {other}: {elsewhere}")
    if not resumes:
        raise UsageError(
            f"--workdir {workdir} holds {results[0].name}, but no checkpoint to resume from: "
            f"{elsewhere}, or --start-over to train from step 0 and replace it"
        )
    if changed := _changed_options(workdir, config, own, copies):
        raise UsageError(
            f"--workdir {workdir} holds a run with another configuration "
            f"({'; '.join(changed)}): {elsewhere}"
        )
    if not copies:
        note = (
            f"note: {workdir} was written by an earlier version, which stored no class names and "
            f"no digest of the images: the current ones are stored in {RUN} now"
        )
        return Claim(own, True, notes=(note,))
    return _compare_images(workdir, config, own, copies, evaluates)


def write(workdir: Path, claim: Claim) -> None:
    """Writes `run.json`, and also `config.json` if there is none or the images have changed.

    Raises:
        OSError: if they cannot be written.
    """
    _write(workdir / RUN, claim.own)
    options, path = claim.own["configuration"]["options"], workdir / CONFIG
    stored = _read(path) if claim.resumes else None
    if stored is None:
        _write(path, options)
    elif claim.accepted:
        _write(path, {**stored, "data_changed": "accept"})


def has_checkpoints(workdir: Path) -> bool:
    """Returns whether a workdir holds checkpoints, complete or not."""
    return any(path.name.isdigit() for path in storage.matches(workdir / "checkpoints", "*"))


def holds_run_from(workdir: Path, init_from: Path) -> bool:
    """Returns whether a workdir holds checkpoints of a run that started from these weights.

    Returns True too if the options of the run cannot be read. `compare` reports this later.
    """
    if not has_checkpoints(workdir):
        return False
    options = stored_options(workdir)
    if options is None:
        return True
    start = options.get("init_from")
    return start is not None and Path(start).absolute() == storage.absolute(init_from)


def stored_options(workdir: Path) -> dict[str, Any] | None:
    """Returns the options stored in a workdir as a dict; None if they cannot be read."""
    options = _read(workdir / CONFIG)
    if isinstance(options, dict):
        return options
    run = _read(workdir / RUN)
    return run["configuration"]["options"] if _is_identity(run) else None


def free_name(workdir: Path) -> Path:
    """Returns an unused path next to a workdir, with a similar name."""
    number = 2
    while (path := workdir.with_name(f"{workdir.name}-{number}")).exists():
        number += 1
    return path


def _compare_images(
    workdir: Path, config: Any, own: Identity, copies: list[Identity], evaluates: bool
) -> Claim:
    before = copies[0]  # from run.json, which may list newer changes than the checkpoint
    notes = []
    if versions := identity.other_versions(before, own):
        notes.append(f"note: versions have changed, which may change rounding: {versions}")
    own = {**own, "data_changes": before.get("data_changes", [])}
    parts = ("test",) if evaluates else ("train", "test")
    other = identity.other_images(before, own, parts)
    if other is None:
        return Claim(own, True, notes=tuple(notes))
    if config.data.data_changed != "accept":
        raise UsageError(
            f"the images differ from those of the run in {workdir}: {other}. Resuming would change "
            "their order and all later numbers: restore the images, give another --workdir, or "
            "continue with --data-changed accept"
        )
    notes.append(f"note: the images have changed, and --data-changed accepts it: {other}")
    change = {
        "time": f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M:%S}",
        "before": before["data"],
    }
    own["data_changes"] = [*own["data_changes"], change]
    return Claim(own, True, accepted=True, notes=tuple(notes))


def _changed_options(
    workdir: Path, config: Any, own: Identity, copies: list[Identity]
) -> list[str]:
    """Lists the options that differ from any readable copy although they must not.

    Returns strings such as "seed 0, now 1".

    Args:
        workdir: folder of the run.
        config: configuration of this run.
        own: description of this run.
        copies: stored descriptions, which contain options.

    Raises:
        UsageError: if no stored copy of the options can be read.
    """
    places = [_read(workdir / CONFIG)]
    places += [copy["configuration"]["options"] for copy in copies]
    known = [place for place in places if isinstance(place, dict)]
    if not known:
        raise UsageError(
            f"{workdir / CONFIG} is missing or damaged, and neither {RUN} nor a checkpoint has a "
            "copy: the options of the checkpoints are not known. Restore the file, or give another "
            "--workdir"
        )
    changed = [text for place in known for text in identity.other_options(place, own, config)]
    return list(dict.fromkeys(changed))


def _other_classes(workdir: Path, own: Identity) -> str | None:
    """Compares the classes with those in `weights.safetensors` of a run by an earlier version.

    Returns:
        A string that says how they differ; None if they do not, or are not known.
    """

    def facts() -> dict[str, Any]:
        with (
            storage.local_copy(workdir / _RESULTS[0]) as path,
            safetensors.safe_open(path, framework="np") as file,
        ):
            return json.loads(file.metadata()["inception_jax"])

    found = _attempt(facts) or {}
    classes = (found.get("facts") or {}).get("classes")
    count, now = found.get("num_classes"), own["project"]
    if classes:
        return identity.other_project({"project": {**now, "classes": list(classes)}}, own)
    if count is not None and count != len(now["classes"]):
        return f"a network with {count} classes; this is one with {len(now['classes'])}"
    return None


def _results(workdir: Path) -> list[Path]:
    return [path for name in _RESULTS if (path := workdir / name).exists()]


def _is_identity(found: Any) -> TypeGuard[Identity]:
    """Returns whether `found` is a complete description of a run, not a damaged or missing one."""

    def check() -> bool:
        project, data = found["project"], found["data"]
        return (
            isinstance(project["classes"], list)
            and {"train", "test"} <= data.keys()
            and all(isinstance(part["images"], int) for part in data.values())
            and isinstance(found["configuration"]["options"], dict)
        )

    return bool(_attempt(check))


def _read(path: Path) -> Any:
    """Returns the content of a JSON file; None if the file is missing or damaged."""
    return _attempt(lambda: json.loads(path.read_text()))


def _attempt(read: Callable[[], Any]) -> Any:
    try:
        return read()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, safetensors.SafetensorError):
        return None


def _write(path: Path, value: Any) -> None:
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(value, indent=2) + "\n")
