"""Chooses the form in which an operation is computed by the platform that runs the program."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Literal

import jax
import jax.numpy as jnp
from jax import lax
from jax.typing import DTypeLike

Form = Literal["shifted", "native", "dense"]

_forced = jax.make_user_context(None)
_native_convolutions = jax.make_user_context(False)


@contextlib.contextmanager
def forced_form(form: Form) -> Iterator[None]:
    """Traces with one form on every platform, for tests and counts that depend on it."""
    with _forced(form):
        yield


@contextlib.contextmanager
def native_convolutions() -> Iterator[None]:
    """Traces float32 convolutions in the native form on CPUs too.

    For programs in which oneDNN computes them, see `onednn`.
    """
    with _native_convolutions(True):
        yield


def convolutions_are_native(dtype: DTypeLike) -> bool:
    """Returns whether convolutions that are traced now have the native form on CPUs too."""
    return _native_convolutions.value and dtype == jnp.float32


def by_platform(
    shifted: Callable, native: Callable, *args, dense: Callable | None = None
) -> Callable:
    """Returns a function of arrays that uses the form for the platform it is lowered for.

    Args:
        shifted: form for CPUs.
        native: form for TPUs, GPUs and others.
        args: further arguments of all forms, after the arrays.
        dense: form for TPUs, if it differs.
    """
    forms: dict[str, Callable] = {"shifted": shifted, "native": native, "dense": dense or native}
    forms = {name: functools.partial(trailing, form, args) for name, form in forms.items()}
    if _forced.value is not None:
        return forms[_forced.value]
    chosen = {"cpu": forms["shifted"], "default": forms["native"]}
    chosen |= {"tpu": forms["dense"]} if dense else {}
    return lambda *arrays: lax.platform_dependent(*arrays, **chosen)


def trailing(function: Callable, args: tuple, *arrays: jax.Array) -> jax.Array:
    """Calls a function with arrays, then other arguments."""
    return function(*arrays, *args)
