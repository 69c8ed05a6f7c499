"""The workdir: of one configuration, whoever continues it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from train.config.options import Config
from train.errors import UsageError

# Options that may differ when the same command goes on with a workdir: they change how long, where
# or how loudly it runs, not what is computed at a step but for rounding.
_FREE = {
    "workdir", "data_dir", "steps", "epochs", "eval_only", "dry_run",
    "compile_only", "compile_effort", "max_bad_images", "workers",
    "distributed", "coordinator", "num_processes", "process_id", "heartbeat_timeout", "log_every",
    "eval_every", "eval_crops", "eval_exclude", "checkpoint_every", "keep_checkpoints",
    "profile_steps", "compile_cache", "tensorboard", "wandb", "remat", "rewrites",
}  # fmt: skip


def as_json(config: Config) -> dict[str, Any]:
    """Returns a configuration as `config.json` holds it."""
    fields = dataclasses.asdict(config).items()
    return {name: str(value) if isinstance(value, Path) else value for name, value in fields}


def claim(config: Config, total: int) -> None:
    """Makes the workdir, or checks that it is one of the same configuration.

    Args:
        config: of this run.
        total: its last step. Another one changes a rate that falls towards the end.

    Raises:
        UsageError: if it cannot be written to, or holds checkpoints of another configuration.
    """
    path = config.workdir / "config.json"
    own = as_json(config)
    if config.lr_schedule != "exponential":
        own["last_step"] = total
    try:
        config.workdir.mkdir(parents=True, exist_ok=True)
        probe = config.workdir / ".writable"
        probe.write_text("")
        probe.unlink()
        if not path.exists() or not has_checkpoints(config.workdir):
            path.write_text(json.dumps(own, indent=2) + "\n")
            return
        stored = json.loads(path.read_text())
    except OSError as error:
        raise UsageError(f"--workdir {config.workdir}: cannot be written to ({error})") from None
    except ValueError:
        raise UsageError(f"{path} is damaged; give another --workdir or delete it") from None
    changed = [
        f"{name} {stored.get(name)!r}, now {value!r}"
        for name, value in own.items()
        if name not in _FREE and stored.get(name) != value
    ]
    if changed:
        raise UsageError(
            f"--workdir {config.workdir} holds a run of another configuration "
            f"({'; '.join(changed)}): give another --workdir"
        )


def has_checkpoints(workdir: Path) -> bool:
    """Says whether there is anything in a workdir that another run could spoil."""
    return any(path.name.isdigit() for path in (workdir / "checkpoints").glob("*"))
