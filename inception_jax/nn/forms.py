"""Chooses an implementation (form) of an operation by the platform that runs the program.

- `shifted`, for CPUs, avoids operations that are slow in XLA's CPU backend. For example, it
  combines shifted copies of a feature map instead of using a window reduction.
- `native`, for TPUs, GPUs and other platforms, uses XLA's own operation, such as its convolution.
- `dense`, for TPUs only, computes a depthwise convolution as a full convolution, with zeros between
  different channels.

A TPU gets `dense` if the operation has that form, else `native`.
"""

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
    """Context manager that traces the implementation `form` of operations for every platform.

    Used where the platform must not matter, as in tests, counts of operations and ONNX files.
    """
    with _forced(form):
        yield


@contextlib.contextmanager
def native_convolutions() -> Iterator[None]:
    """Context manager that traces float32 convolutions as XLA's own operation on CPUs too.

    Used for programs whose convolutions oneDNN computes; see `cpu_libraries`.
    """
    with _native_convolutions(True):
        yield


def convolutions_are_native(dtype: DTypeLike) -> bool:
    """Returns whether `native_convolutions` is active and applies to this dtype."""
    return _native_convolutions.value and dtype == jnp.float32


def by_platform(
    shifted: Callable, native: Callable, *args, dense: Callable | None = None
) -> Callable:
    """Returns a function that calls the implementation for the platform it is compiled for.

    The function takes arrays, and passes them to the implementation, followed by `args`.

    Args:
        shifted: implementation for CPUs.
        native: implementation for GPUs and other platforms, and for TPUs without `dense`.
        args: further arguments of all implementations.
        dense: implementation for TPUs; None: TPUs use `native`.
    """
    forms: dict[str, Callable] = {"shifted": shifted, "native": native, "dense": dense or native}
    forms = {name: functools.partial(trailing, form, args) for name, form in forms.items()}
    if _forced.value is not None:
        return forms[_forced.value]
    chosen = {"cpu": forms["shifted"], "default": forms["native"]}
    chosen |= {"tpu": forms["dense"]} if dense else {}
    return lambda *arrays: lax.platform_dependent(*arrays, **chosen)


def trailing(function: Callable, args: tuple, *arrays: jax.Array) -> jax.Array:
    """Calls `function` with the arrays, followed by `args`."""
    return function(*arrays, *args)
