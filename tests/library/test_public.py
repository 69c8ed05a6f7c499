"""Tests that docs/reference.md lists exactly the public names, and that these are typed."""

from __future__ import annotations

import inspect
import pkgutil
import re
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import inception_jax as ij

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTED = re.findall(r"^::: (\S+)$", (ROOT / "docs/reference.md").read_text(), re.MULTILINE)
PACKAGES = (
    "inception_jax",
    "inception_jax.explain",
    "inception_jax.drawing",
    "inception_jax.metrics",
)


def callables(value: Any) -> Iterator[tuple[str, Any]]:
    """Yields the name and object of a function, or of a class and each of its public methods."""
    if not inspect.isclass(value):
        yield value.__name__, value
        return
    if not issubclass(value, BaseException):
        yield value.__name__, value
    for name, member in vars(value).items():
        member = member.fget if isinstance(member, property) else member
        member = getattr(member, "__func__", member)
        if inspect.isfunction(member) and not name.startswith("_"):
            yield f"{value.__name__}.{name}", member


def untyped(function: Any) -> list[str]:
    """Returns the names of parameters without a type, and "return" if the result has no type."""
    signature = inspect.signature(function)
    names = [
        name
        for name, parameter in signature.parameters.items()
        if parameter.annotation is parameter.empty and name not in ("self", "cls")
    ]
    if not inspect.isclass(function) and signature.return_annotation is signature.empty:
        names.append("return")
    return names


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_documented_name_exists_and_is_typed(name):
    value = pkgutil.resolve_name(name)
    assert inspect.getdoc(value), f"{name} has no docstring"
    missing = {called: untyped(function) for called, function in callables(value)}
    assert not any(missing.values()), f"without a type: {missing}"


@pytest.mark.parametrize("package", PACKAGES)
def test_every_public_name_is_documented(package):
    """Every public function and class is listed in docs/reference.md.

    Constants and modules are exempt: a module is documented by its own names.
    """
    module = pkgutil.resolve_name(package)
    for name in module.__all__:
        value = getattr(module, name)
        if isinstance(value, type | types.FunctionType):
            assert f"{package}.{name}" in DOCUMENTED or any(
                pkgutil.resolve_name(each) is value for each in DOCUMENTED
            ), f"docs/reference.md does not list {package}.{name}"


def test_names_are_listed_once_and_in_all():
    """No name is listed twice, and a listed name of a package is in the package's `__all__`."""
    assert len(set(DOCUMENTED)) == len(DOCUMENTED)
    for name in DOCUMENTED:
        package, _, attribute = name.rpartition(".")
        if package in PACKAGES:
            assert attribute in pkgutil.resolve_name(package).__all__, name


def test_a_missing_type_is_seen():
    def half(a: int, b):
        return a, b

    assert untyped(half) == ["b", "return"]


def test_the_citation_has_the_version_of_the_package():
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"\nversion: {ij.__version__}\n" in citation
