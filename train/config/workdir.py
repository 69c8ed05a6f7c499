"""The workdir belongs to one configuration, whoever resumes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from train.config import fields
from train.errors import UsageError


def claim(workdir: Path, config: Any, total: int) -> None:
    """Makes the workdir, or checks that it holds a run of the same configuration.

    An option that is younger than the workdir had its default there.

    Args:
        workdir: of the run.
        config: all its options.
        total: its last step. Where the rate falls until then, another one changes the rate.

    Raises:
        UsageError: if it cannot be written to, or holds checkpoints of another configuration.
    """
    path = workdir / "config.json"
    own = fields.as_json(config)
    if own["lr_schedule"] != "exponential":
        own["last_step"] = total
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        probe = workdir / ".writable"
        probe.write_text("")
        probe.unlink()
        if not path.exists() or not has_checkpoints(workdir):
            path.write_text(json.dumps(own, indent=2) + "\n")
            return
        stored = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"--workdir {workdir}: cannot be written to ({error})") from None
    except ValueError:
        raise UsageError(f"{path} is damaged; give another --workdir or delete it") from None
    before = {**fields.as_json(type(config)()), **stored}
    changed = [
        f"{name} {before.get(name)!r}, now {value!r}"
        for name, value in json.loads(json.dumps(own)).items()
        if name not in fields.may_change(config) and before.get(name) != value
    ]
    if changed:
        raise UsageError(
            f"--workdir {workdir} holds a run of another configuration "
            f"({'; '.join(changed)}): give another --workdir"
        )


def has_checkpoints(workdir: Path) -> bool:
    """Says whether a workdir holds anything that another run could spoil."""
    return any(path.name.isdigit() for path in (workdir / "checkpoints").glob("*"))
