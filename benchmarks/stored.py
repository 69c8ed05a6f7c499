"""Files of results with which an interrupted benchmark can be resumed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from inception_jax.outputs import atomic_write


def saved(path: Path | None, setting: dict[str, Any]) -> dict[str, Any]:
    """Returns the results of earlier commands by name of the part, or {} if there are none.

    Args:
        path: JSON file that `save` has written; None: there are no earlier results.
        setting: what results depend on, such as machine, package versions and batch size.

    Raises:
        SystemExit: if the results come from another setting, such as another machine.
    """
    if path is None or not path.exists():
        return {}
    content = json.loads(path.read_text())
    if (theirs := content.get("setting")) != setting:
        raise SystemExit(
            f"{path} has results for another setting, {theirs}; this one is {setting}: "
            "move the file away, or give another one with --results"
        )
    return content["done"]


def save(path: Path | None, setting: dict[str, Any], done: dict[str, Any]) -> None:
    """Writes the setting and all results to a file, atomically.

    Args:
        path: JSON file to write; None: nothing is written.
        setting: see `saved`.
        done: results by name of the part.
    """
    if path is None:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as partial:
        partial.write_text(json.dumps({"setting": setting, "done": done}, indent=1))
