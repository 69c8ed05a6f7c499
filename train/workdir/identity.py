"""The description of a run: its project, images, configuration, and package versions.

The project is the name, channels and class names of the data set. The description is stored in
`run.json` and in every checkpoint. `docs/workdir.md` documents it.
"""

from __future__ import annotations

import hashlib
import json
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from inception_jax.version import __version__
from train.config import fields
from train.data.data_digest import fingerprint
from train.data.datasets import Dataset

Identity = dict[str, Any]

_FORMAT = 1
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
_MOST_NAMES = 4
# Options that may differ between the processes of one run.
_OF_A_PROCESS = {
    "process_id", "num_processes", "coordinator", "distributed", "data_dir", "workers", "workdir",
    "eval_exclude", "verbose",
}  # fmt: skip


def describe(config: Any, dataset: Dataset, total: int) -> Identity:
    """Returns the description of a run.

    Args:
        config: configuration of the run.
        dataset: data set of the run.
        total: last step. It is part of the description if the learning rate depends on it.
    """
    options = json.loads(json.dumps(fields.as_json(config)))
    if options["lr_schedule"] != "exponential":
        options["last_step"] = total
    free = fields.may_change(config)
    fixed = {k: v for k, v in options.items() if k not in free}
    return {
        "format": _FORMAT,
        "project": {
            "dataset": dataset.name,
            "channels": dataset.channels,
            "classes": list(dataset.classes),
        },
        "data": {"train": fingerprint(dataset.train), "test": fingerprint(dataset.test)},
        "data_changes": [],
        "configuration": {"digest": digest(fixed), "options": options},
        "versions": {
            "inception_jax": __version__,
            "python": platform.python_version(),
            **{name: _version(name) for name in _PACKAGES},
        },
    }


def digest(value: Any) -> str:
    """Returns the SHA-256, in hexadecimal, of a value that can be written as JSON."""
    text = json.dumps(value, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def shared(own: Identity) -> dict[str, str]:
    """Returns digests of everything that must be equal in all processes of a run, by name."""
    options = own["configuration"]["options"]
    return {
        "class names": digest(own["project"]),
        "images": digest(own["data"]),
        "options": digest({k: v for k, v in options.items() if k not in _OF_A_PROCESS}),
        "versions": digest(own["versions"]),
    }


def other_project(before: Identity, now: Identity) -> str | None:
    """Returns a string that says how the projects of two runs differ; None if they do not.

    The project is the name, channels and class names of the data set.
    """
    a, b = before["project"], now["project"]
    if a == b:
        return None
    text = f"{_named(a)}; this is {_named(b)}"
    pairs = enumerate(zip(a["classes"], b["classes"], strict=False))
    different = next(((i, x, y) for i, (x, y) in pairs if x != y), None)
    if len(a["classes"]) == len(b["classes"]) and different and different[0] >= _MOST_NAMES:
        text += f" (class {different[0]} was {different[1]!r}, now {different[2]!r})"
    return text


def other_images(before: Identity, now: Identity, parts: tuple[str, ...]) -> str | None:
    """Returns a string that says how the images of two runs differ; None if they do not.

    Both runs have the same class names.

    Args:
        before: description of the stored run.
        now: description of this run.
        parts: parts of the data set to compare: "train", "test" or both.
    """
    found = []
    for part in parts:
        a, b = before["data"][part], now["data"][part]
        if a == b:
            continue
        if a["images"] == b["images"]:
            found.append(f"{part}: {b['images']:,} images as before, but other files")
        else:
            found.append(f"{part}: {a['images']:,} images, now {b['images']:,}")
        counts = zip(a.get("by_class") or (), b.get("by_class") or (), strict=False)
        names = now["project"]["classes"]
        changed = [f"{names[i]!r} {x:,}, now {y:,}" for i, (x, y) in enumerate(counts) if x != y]
        if changed:
            more = ", ..." if len(changed) > _MOST_NAMES else ""
            found[-1] += f" ({', '.join(changed[:_MOST_NAMES])}{more})"
    return "; ".join(found) or None


def other_options(before: dict[str, Any], now: Identity, config: Any) -> list[str]:
    """Lists the options that differ although they must not.

    Returns strings such as "seed 0, now 1". If an option did not exist when the run was stored, its
    default is compared.

    Args:
        before: options of the stored run.
        now: description of this run.
        config: configuration of this run.
    """
    before = {**json.loads(json.dumps(fields.as_json(type(config)()))), **before}
    free = fields.may_change(config)
    return [
        f"{name} {before.get(name)!r}, now {value!r}"
        for name, value in now["configuration"]["options"].items()
        if name not in free and before.get(name) != value
    ]


def other_versions(before: Identity, now: Identity) -> str | None:
    """Returns a string that lists the changed versions of packages; None if none has changed."""
    a, b = before.get("versions", {}), now["versions"]
    changed = [f"{name} {a[name]}, now {b[name]}" for name in b if a.get(name, b[name]) != b[name]]
    return ", ".join(changed) or None


def _named(project: dict[str, Any]) -> str:
    names = ", ".join(map(repr, project["classes"][:_MOST_NAMES]))
    more = ", ..." if len(project["classes"]) > _MOST_NAMES else ""
    return f"{project['dataset']} with {len(project['classes'])} classes ({names}{more})"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
