"""Defines how options are declared; contains functions that apply to all options.

Each package declares its options in frozen dataclasses, in a separate file that does not import
jax. Each field is an option. The attribute docstring below the field is the help text. The
annotation contains the allowed range, and `MAY_CHANGE` if the option may differ when a run resumes.
`train/run/command_line.py` nests the dataclasses. On the command line, in recipes and in
`config.json`, the options are flat.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import typing
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, TypeVar

from train.errors import UsageError

Options = TypeVar("Options")


class Rule(NamedTuple):
    """An allowed range: a function that tests a number, and the message if the test fails."""

    holds: Callable[[float], bool]
    message: str


POSITIVE = Rule(lambda x: x > 0, "must be above zero")
NOT_NEGATIVE = Rule(lambda x: x >= 0, "must be at least 0")
BELOW_ONE = Rule(lambda x: x < 1, "must be at least 0 and below 1")
AT_MOST_ONE = Rule(lambda x: x <= 1, "must be at most 1")

MAY_CHANGE = "may change"
"""Marks an option that may differ when a run resumes. Such an option determines how long, where or
how verbosely the run computes. It changes the result of a step at most by rounding."""


def flat(options: Any) -> dict[str, Any]:
    """Returns a flat dict of all options by name."""
    values: dict[str, Any] = {}
    for name, value in vars(options).items():
        values |= flat(value) if dataclasses.is_dataclass(value) else {name: value}
    return values


def as_json(options: Any) -> dict[str, Any]:
    """Returns a flat dict of all options by name, in the form that `config.json` stores."""
    return {n: str(v) if isinstance(v, os.PathLike) else v for n, v in flat(options).items()}


def override(options: Options, values: Mapping[str, Any]) -> Options:
    """Returns a copy of nested options, with new values for the options named in `values`.

    Raises:
        TypeError: if there is no such option.
    """
    if unknown := values.keys() - flat(options).keys():
        raise TypeError(f"no such option: {', '.join(sorted(unknown))}")
    changes = {}
    for name, value in vars(options).items():
        if dataclasses.is_dataclass(value):
            changes[name] = override(value, {n: values[n] for n in flat(value) if n in values})
        elif name in values:
            changes[name] = values[name]
    return dataclasses.replace(options, **changes)  # pyright: ignore[reportArgumentType, reportCallIssue]


def check_ranges(options: Any) -> None:
    """Checks every number against the rules on its field.

    Raises:
        UsageError: if a number breaks a rule; the message names option, value and rule.
    """
    for name, value, metadata in _annotated(options):
        if not isinstance(value, int | float):
            continue
        rules = [Rule(math.isfinite, "must be a finite number")]
        rules += [rule for rule in metadata if isinstance(rule, Rule)]
        for rule in rules:
            if not rule.holds(value):
                raise UsageError(f"--{name.replace('_', '-')} {value}: {rule.message}")


def may_change(options: Any) -> set[str]:
    """Returns the names of the options that may differ when a run resumes."""
    return {name for name, _, metadata in _annotated(options) if MAY_CHANGE in metadata}


def _annotated(options: Any) -> Iterator[tuple[str, Any, tuple[Any, ...]]]:
    """Yields the name, the value and the annotation's metadata of every option."""
    hints = _hints(type(options))
    for name, value in vars(options).items():
        if dataclasses.is_dataclass(value):
            yield from _annotated(value)
        else:
            yield name, value, getattr(hints[name], "__metadata__", ())


@functools.cache
def _hints(kind: type) -> dict[str, Any]:
    """Returns the annotations of a class, evaluated from the strings that Python stores."""
    return typing.get_type_hints(kind, include_extras=True)
