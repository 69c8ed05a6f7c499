"""Parses command lines with argparse; errors are one line and suggest the intended option."""

from __future__ import annotations

import argparse
import math
import re
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Any, NoReturn

from inception_jax.nearest import did_you_mean
from inception_jax.version import __version__

_FEW = 5  # up to this many choices, all are listed, even if one is suggested
_NUMBER = re.compile(r"-\.?\d")


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors print one line on standard error and exit with code 2.

    Options cannot be abbreviated (`--batch-size`, not `--batch`), because an abbreviation may
    become ambiguous when options are added. Underscores and hyphens are equivalent.

    Args:
        *args: see `argparse.ArgumentParser`.
        other_words: names of options in other programs, each mapped to the options of this parser
            that an error then suggests.
        answers: names of options in other programs that have no equivalent here, each mapped to
            the advice that an error then prints.
        other_values: for each option, values in other programs, each mapped to the values here
            that an error then suggests.
        **kwargs: see `argparse.ArgumentParser`.
    """

    def __init__(
        self,
        *args: Any,
        other_words: Mapping[str, str | tuple[str, ...]] | None = None,
        answers: Mapping[str, str] | None = None,
        other_values: Mapping[str, Mapping[str, str | tuple[str, ...]]] | None = None,
        **kwargs: Any,
    ):
        kwargs.setdefault("formatter_class", argparse.RawDescriptionHelpFormatter)
        super().__init__(*args, allow_abbrev=False, **kwargs)
        self._other_words = other_words or {}
        self._answers = answers or {}
        self._other_values = other_values or {}

    def parse_known_args(self, args=None, namespace=None):  # type: ignore[override]
        """Parses the known options; see `argparse.ArgumentParser`.

        Unknown options are reported before errors of argparse, which they may have caused.
        """
        words = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(self._checked(words), namespace)

    def parse_args(self, args=None, namespace=None):  # type: ignore[override]
        """Parses a whole command line; see `argparse.ArgumentParser`."""
        options, rest = self.parse_known_args(args, namespace)
        if rest:
            # This is not the value of an option: the option would have taken it.
            self.error(f"unexpected {rest[0]!r}: options are written --name value, flags alone")
        return options

    def _checked(self, words: list[str]) -> list[str]:
        known = self._option_string_actions
        for i, word in enumerate(words):
            if word == "--":
                break
            if not word.startswith("-") or word == "-" or _NUMBER.match(word):
                continue
            name, equals, value = word.partition("=")
            hyphened = name.replace("_", "-")
            if hyphened in known:
                words[i] = hyphened + equals + value
            elif word[:2] not in known or word.startswith("--"):
                self.error(self._unknown(name))
        return words

    def _unknown(self, name: str) -> str:
        word = name.lstrip("-").replace("_", "-").lower()
        if answer := self._answers.get(word):
            return f"unknown option {name}: {answer}"
        known = [option[2:] for option in self._option_string_actions if option.startswith("--")]
        hint = did_you_mean(word, known, self._other_words, prefix="--")
        return f"unknown option {name}{hint or f'; {self.prog} --help lists them'}"

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        choices = [str(choice) for choice in action.choices]
        others = self._other_values.get(action.dest, {})
        hint = did_you_mean(str(value), choices, others)
        wrong = f"{value!r} is unknown" if hint and len(choices) > _FEW else ""
        wrong = wrong or f"{value!r} is not {_either(choices)}"
        raise argparse.ArgumentError(action, wrong + hint)

    def explained(self, message: str) -> str:
        """Returns argparse's error message in a shorter form."""
        message = message.removeprefix("argument ")
        message = message.replace("the following arguments are required:", "missing:")
        message = re.sub(r"expected (at least )?one argument$", "a value is missing", message)
        if message.startswith("missing:"):
            message += f"; see {self.prog} --help"
        return message

    def error(self, message: str) -> NoReturn:
        """Prints an error in one line and exits with code 2."""
        self.exit(2, f"error: {self.explained(message)}\n")


def whole_number(text: str) -> int:
    """Parses an integer; 1_000 and 1e3 are 1000.

    Raises:
        argparse.ArgumentTypeError: if the text is not an integer.
    """
    try:
        # float is used only if int fails, because it rounds large numbers.
        number = float(text) if re.search(r"[.eE]", text) else int(text)
    except ValueError:
        number = math.nan
    if not (isinstance(number, int) or number.is_integer()):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(number)


def number(text: str) -> float:
    """Parses a floating-point number.

    Raises:
        argparse.ArgumentTypeError: if the text is not a number.
    """
    try:
        return float(text)
    except ValueError:
        hint = f"; write {text.replace(',', '.')}" if re.fullmatch(r"-?\d+,\d+", text) else ""
        raise argparse.ArgumentTypeError(f"{text!r} is not a number{hint}") from None


def versions(program: str) -> str:
    """Returns the text for `--version`: the versions of this library, jax, flax and Python.

    The line starts with `program`, the name of the command.
    """
    parts = [f"{program} {__version__}"]
    for package in ("jax", "flax"):
        try:
            parts.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            parts.append(f"{package} not installed")
    return ", ".join([*parts, f"Python {sys.version.partition(' ')[0]}"])


def _either(choices: Sequence[str]) -> str:
    *most, last = choices
    return f"{', '.join(most)} or {last}" if most else last
