"""Makes a command line parser from dataclasses of options.

The name and the type of a field determine its flag and values. The attribute docstring below the
field is the help text. The parsed result contains only the options that are on the command line,
because a recipe sets the others.
"""

from __future__ import annotations

import argparse
import ast
import dataclasses
import inspect
import itertools
import textwrap
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from inception_jax.parser import Parser, number, whole_number
from train import storage
from train.config import other_words
from train.errors import UsageError

_READERS: dict[Any, tuple[str, Callable[[str], Any]]] = {
    int: ("N", whole_number),
    float: ("X", number),
    str: ("NAME", str),
    Path: ("PATH", storage.place),
}


class OptionParser(Parser):
    """A parser that raises `UsageError` for a wrong command line, instead of exiting."""

    def error(self, message: str) -> NoReturn:
        """Raises a UsageError with the message.

        Raises:
            UsageError: always.
        """
        raise UsageError(self.explained(message))


@dataclasses.dataclass(frozen=True)
class Option:
    """An option: a field of a dataclass of options.

    Attributes:
        name: name of the field.
        room: the group of options that it belongs to, given by the group's heading in the help.
        kind: type of the field.
        default: value if the option is not given.
        text: help text.
    """

    name: str
    room: str
    kind: Any
    default: Any
    text: str

    @property
    def flag(self) -> str:
        """The option as written on the command line, such as "--batch-size"."""
        return f"--{self.name.replace('_', '-')}"

    @property
    def shown_default(self) -> str:
        """The default as the help shows it: a flag's is "on" or "off", and None is "not given"."""
        if isinstance(self.default, bool):
            return "on" if self.default else "off"
        if isinstance(self.default, tuple):
            return " ".join(self.default)
        return "not given" if self.default is None else f"{self.default}"


def options_of(config: Any) -> Iterator[Option]:
    """Yields the options of nested dataclasses, with the values of `config` as their defaults."""
    hints, texts = typing.get_type_hints(type(config)), _texts(type(config))
    for name, value in vars(config).items():
        if dataclasses.is_dataclass(value):
            yield from options_of(value)
        elif typing.get_origin(hints[name]) is not dict:  # cannot be set on the command line
            room = (type(config).__doc__ or "").partition("\n")[0]
            yield Option(name, room, hints[name], value, texts.get(name, ""))


def make_parser(
    options: Sequence[Option], choices: Mapping[str, Sequence[str]], **kwargs: Any
) -> Parser:
    """Returns a command line parser for options.

    Args:
        options: all options.
        choices: allowed values by option name, for options whose types do not list the values.
        **kwargs: passed to `argparse.ArgumentParser`.
    """
    parser = OptionParser(
        other_words=other_words.OPTIONS,
        other_values=other_words.VALUES,
        answers=other_words.ANSWERS,
        add_help=False,
        argument_default=argparse.SUPPRESS,
        formatter_class=argparse.HelpFormatter,
        **kwargs,
    )
    groups: dict[str, Any] = {}
    for option in options:
        if option.room not in groups:
            groups[option.room] = parser.add_argument_group(option.room.rstrip("."))
        _add(groups[option.room], option, choices.get(option.name))
    return parser


def _add(group: Any, option: Option, choices: Sequence[str] | None) -> None:
    known = f" One of {', '.join(choices)}." if choices else ""
    text = f"{option.text}{known} (default: {option.shown_default})".replace("%", "%%")
    flag, kind = option.flag, option.kind
    inner = [part for part in typing.get_args(kind) if part is not types.NoneType]
    optional = types.NoneType in typing.get_args(kind)
    kind = inner[0] if optional else kind
    if kind is bool and not optional:
        group.add_argument(flag, action=argparse.BooleanOptionalAction, help=text)
        return
    settings: dict[str, Any] = dict(help=text)
    if kind is bool:  # None means that neither flag is given
        negative = f"--no-{flag[2:]}"
        group.add_argument(flag, action="store_const", const=True, dest=option.name, help=text)
        group.add_argument(
            negative, action="store_const", const=False, dest=option.name, help=argparse.SUPPRESS
        )
        return
    if typing.get_origin(kind) is tuple:
        settings["nargs"] = "*"
        kind = typing.get_args(kind)[0]
    if typing.get_origin(kind) is typing.Literal:
        choices = typing.get_args(kind)
        settings["metavar"] = "{" + ",".join(map(str, choices)) + "}"
        kind = type(choices[0])
    settings.setdefault("metavar", _READERS[kind][0])
    reader = _READERS[kind][1]
    settings["type"] = _or_none(reader) if optional else reader
    group.add_argument(flag, choices=choices, **settings)


def _or_none(reader: Callable[[str], Any]) -> Callable[[str], Any]:
    return lambda text: None if text == "None" else reader(text)


def _texts(options: type) -> dict[str, str]:
    """Returns the attribute docstrings of a dataclass, by field."""
    body = ast.parse(textwrap.dedent(inspect.getsource(options))).body[0].body  # type: ignore[attr-defined]
    return {
        field.target.id: inspect.cleandoc(text.value.value).replace("\n", " ")
        for field, text in itertools.pairwise(body)
        if isinstance(field, ast.AnnAssign)
        and isinstance(field.target, ast.Name)
        and isinstance(text, ast.Expr)
        and isinstance(text.value, ast.Constant)
        and isinstance(text.value.value, str)
    }
