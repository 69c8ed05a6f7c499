"""Tensors that stay in their file until they are read, and the functions that unpickle them."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import jax.numpy as jnp
import numpy as np

from inception_jax.weights.pickles import Data, Name, Opaque, PickleError, entries, made

_TORCH_TYPES: dict[str, Any] = {
    "float": np.float32, "float32": np.float32,
    "double": np.float64, "float64": np.float64,
    "half": np.float16, "float16": np.float16,
    "bfloat16": jnp.bfloat16,
    "long": np.int64, "int64": np.int64,
    "int": np.int32, "int32": np.int32,
    "short": np.int16, "int16": np.int16,
    "char": np.int8, "int8": np.int8,
    "byte": np.uint8, "uint8": np.uint8,
    "bool": np.bool_,
    "complexfloat": np.complex64, "complex64": np.complex64,
    "complexdouble": np.complex128, "complex128": np.complex128,
}  # fmt: skip
_MOST_BYTES = 1 << 34  # limit for one tensor; the largest in any network here has 10^7 elements


@dataclasses.dataclass(eq=False)
class Storage:
    """A block of numbers in a file. Tensors are views of it.

    Attributes:
        kind: PyTorch's name for the dtype, such as "float"; "untyped" if each tensor states its
            dtype.
        read: function that returns the bytes of the block.
    """

    kind: str
    read: Callable[[], bytes | memoryview]


@dataclasses.dataclass(eq=False)
class StoredTensor:
    """A tensor in a file: a view of a storage, with offset and strides in elements."""

    storage: Storage
    dtype: np.dtype
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]

    def read(self) -> np.ndarray:
        """Reads the tensor from the file into a NumPy array.

        Raises:
            PickleError: if the tensor is too large, or the view reaches beyond the storage.
        """
        if math.prod(self.shape) * self.dtype.itemsize > _MOST_BYTES:
            raise PickleError(f"a tensor of the shape {self.shape}")
        content = self.storage.read()
        flat = np.frombuffer(content, self.dtype, len(content) // self.dtype.itemsize)
        if 0 in self.shape:
            return np.empty(self.shape, self.dtype)
        steps = zip(self.shape, self.strides, strict=True)
        if self.offset + sum((n - 1) * step for n, step in steps) >= len(flat):
            raise PickleError("a tensor reaches beyond the end of its storage")
        strides = [step * self.dtype.itemsize for step in self.strides]
        return np.lib.stride_tricks.as_strided(flat[self.offset :], self.shape, strides).copy()


@dataclasses.dataclass(eq=False)
class Unreadable:
    """A stored tensor that cannot be read, because its data is not a plain array of numbers.

    Attributes:
        reason: why the tensor cannot be read; the message of the error that `read` raises.
    """

    reason: str
    shape: tuple[int, ...] = ()

    def read(self) -> np.ndarray:
        """Raises a PickleError with the reason."""
        raise PickleError(self.reason)


class PickledArray:
    """A NumPy array in a pickle. Unpickling creates it empty, and then calls `build`.

    For an array of Python objects, `objects` is the list of them and `array` is None.
    """

    def __init__(self, *_: Any):
        self.array: np.ndarray | None = None
        self.objects: list[Any] = []

    def build(self, state: Any) -> None:
        """Sets the content.

        Args:
            state: tuple of the version, the shape, the dtype, whether the order is Fortran's, and
                the content: bytes or a list of objects.
        """
        _, shape, dtype, is_fortran, content = state
        if isinstance(content, list):
            self.objects = content
            return
        self.array = _array(content, dtype, shape, "F" if is_fortran else "C")

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of `array`; () if `array` is None."""
        return () if self.array is None else self.array.shape

    def read(self) -> np.ndarray:
        """Returns the array.

        Raises:
            PickleError: if the array holds Python objects, or nothing.
        """
        if self.array is None:
            what = "of objects" if self.objects else "without numbers"
            raise PickleError(f"an array {what}")
        return self.array


class PickledType:
    """A NumPy dtype in a pickle. Unpickling creates it, and then calls `build`."""

    def __init__(self, code: Any = "", *_: Any):
        self.code = code.name if isinstance(code, Name) else code if isinstance(code, str) else ""
        self.order = "<"

    def build(self, state: Any) -> None:
        """Sets the byte order.

        Args:
            state: tuple with the byte order, "<" or ">", as its second item.
        """
        self.order = state[1] if state[1] in ("<", ">") else "<"

    def dtype(self) -> np.dtype:
        """Returns the NumPy dtype.

        Raises:
            PickleError: if the dtype is not numeric or boolean.
        """
        if self.code == "bfloat16":
            return np.dtype(jnp.bfloat16)
        if not re.fullmatch(r"[<>=|]?[a-z]\w{0,15}", self.code):
            raise PickleError("an array that does not hold numbers")
        dtype = np.dtype(self.code)
        dtype = dtype.newbyteorder(">") if self.order == ">" else dtype
        if dtype.kind not in "biufc":
            raise PickleError(f"an array of {dtype}")
        return dtype


Tensor = StoredTensor | Unreadable | PickledArray


def _array(content: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    if isinstance(content, str):  # Python 2's bytes
        content = content.encode("latin1")
    if not isinstance(dtype, PickledType) or not isinstance(content, bytes | bytearray):
        raise PickleError("an array of objects")
    return np.frombuffer(content, dtype.dtype()).reshape(_sizes(shape), order=order)


def _sizes(values: Iterable[Any]) -> tuple[int, ...]:
    sizes = tuple(values)
    if not all(type(size) is int and size >= 0 for size in sizes):
        raise PickleError("damaged: a size that is not a whole number")
    return sizes


def _tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any
) -> StoredTensor | Unreadable:
    """Stands in for `torch._utils._rebuild_tensor_v2`, or `_rebuild_tensor` in older files.

    Returns:
        A `StoredTensor`, whose `read` reads the numbers from the file. An `Unreadable` if the dtype
        is not in `_TORCH_TYPES`, or if PyTorch would conjugate or negate the stored numbers.

    Raises:
        PickleError: if `storage` is not a `Storage`; if the offset, a length or a stride is
            negative or not an integer.
    """
    metadata = rest[2] if len(rest) > 2 else None
    return _view(storage, offset, shape, strides, None, metadata)


def _tensor_v3(
    storage: Any, offset: Any, shape: Any, strides: Any, _grad: Any, _hooks: Any, dtype: Any,
    metadata: Any = None,
) -> StoredTensor | Unreadable:  # fmt: skip
    return _view(storage, offset, shape, strides, dtype, metadata)


def _view(
    storage: Any, offset: Any, shape: Any, strides: Any, dtype: Any, metadata: Any
) -> StoredTensor | Unreadable:
    if not isinstance(storage, Storage):
        raise PickleError("a tensor without a storage")
    shape, strides, (offset,) = _sizes(shape), _sizes(strides), _sizes([offset])
    kind = dtype.name if isinstance(dtype, Name) else storage.kind
    if kind not in _TORCH_TYPES:
        return Unreadable(f"its type is {kind}: store it as float32", shape)
    if isinstance(metadata, dict) and any(metadata.values()):
        return Unreadable(f"it is a view of others ({', '.join(map(str, metadata))})", shape)
    return StoredTensor(storage, np.dtype(_TORCH_TYPES[kind]), offset, shape, strides)


def _no_tensor(what: str) -> Callable[..., Unreadable]:
    return lambda *args: Unreadable(what)


def _first(first: Any, *_: Any) -> Any:
    return first


def _from_type(function: Any, _type: Any, args: Any, *_: Any) -> Any:
    """Stands in for `torch._tensor._rebuild_from_type`, which creates a subclass of `Tensor`.

    Args:
        function: the function, a `pickles.Name`, that rebuilds the plain tensor in PyTorch.
        args: arguments of `function`.

    Returns:
        The plain tensor from which PyTorch would create the subclass: a `Tensor` of this
        module. An `Opaque` if `function` is unknown.
    """
    return made(function, tuple(args), DATA)


def _dict(*args: Any) -> dict[Any, Any]:
    pairs = args[-1] if args else ()
    return entries(pairs.items() if isinstance(pairs, dict) else pairs)


def _list(items: Iterable[Any] = ()) -> list[Any]:
    return list(items)


def _default_dict(*_: Any) -> dict[Any, Any]:
    return {}


def _encode(text: str, encoding: str = "latin1", *_: Any) -> bytes:
    return text.encode("latin1" if encoding == "latin1" else "utf-8")


def _from_jax(_function: Any, args: Any, state: Any, *_: Any) -> PickledArray:
    array = PickledArray()
    array.build(state)
    return array


def _of_buffer(content: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> PickledArray:
    array = PickledArray()
    array.array = _array(content, dtype, shape, "F" if order == "F" else "C")
    return array


def _parameter(*args: Any) -> Any:
    return args[0] if args and hasattr(args[0], "read") else Opaque("Parameter", args)


def is_tensor(value: Any) -> bool:
    """Returns whether a value is an array of any library, in memory or in a file."""
    return hasattr(value, "shape") and (
        isinstance(value, np.ndarray | np.generic)
        or hasattr(value, "read")
        or hasattr(value, "detach")
        or hasattr(value, "__array__")
    )


def as_array(tensor: Any) -> np.ndarray:
    """Converts a NumPy or JAX array, a PyTorch tensor or a stored tensor to a NumPy array."""
    if hasattr(tensor, "read"):
        return tensor.read()
    if hasattr(tensor, "detach"):
        tensor = tensor.detach().cpu()
        if str(tensor.dtype) == "torch.bfloat16":  # NumPy has no bfloat16: keep the bits
            import torch  # installed, because it made the tensor

            return tensor.contiguous().view(torch.int16).numpy().view(jnp.bfloat16)
        return tensor.resolve_neg().resolve_conj().numpy()
    return np.asarray(tensor)


_QUANTISED = "it is quantised: save the network that it was made of, or dequantise it"
DATA: Data = {
    "collections.OrderedDict": _dict,
    "collections.defaultdict": _default_dict,
    **{
        f"{module}.{name}": maker
        for module in ("builtins", "__builtin__")
        for name, maker in {"dict": _dict, "set": _list, "frozenset": _list, "list": _list}.items()
    },
    "torch.Size": lambda sizes=(): tuple(sizes),
    "torch._utils._rebuild_tensor": _tensor,
    "torch._utils._rebuild_tensor_v2": _tensor,
    "torch._utils._rebuild_tensor_v3": _tensor_v3,
    "torch._utils._rebuild_parameter": _first,
    "torch._utils._rebuild_parameter_with_state": _first,
    "torch._utils._rebuild_device_tensor_from_numpy": _first,
    "torch._utils._rebuild_device_tensor_from_cpu_tensor": _first,
    "torch._utils._rebuild_xla_tensor": _first,
    "torch._utils._rebuild_qtensor": _no_tensor(_QUANTISED),
    "torch._utils._rebuild_sparse_tensor": _no_tensor("it is sparse: store it dense"),
    "torch._utils._rebuild_sparse_csr_tensor": _no_tensor("it is sparse: store it dense"),
    "torch._utils._rebuild_nested_tensor": _no_tensor("it is a nested tensor"),
    "torch._utils._rebuild_meta_tensor_no_storage": _no_tensor("it has no numbers (meta device)"),
    "torch._utils._rebuild_wrapper_subclass": _no_tensor(
        "it is a part of a distributed tensor: gather it first"
    ),
    "torch._tensor._rebuild_from_type": _from_type,
    "torch._tensor._rebuild_from_type_v2": _from_type,
    "torch.nn.parameter.Parameter": _parameter,
    "torch.nn.Parameter": _parameter,
    "torch.jit._pickle.restore_type_tag": _first,
    "torch.jit._pickle.build_intlist": _first,
    "torch.jit._pickle.build_tensorlist": _first,
    "_codecs.encode": _encode,
    "jax._src.array._reconstruct_array": _from_jax,
    **{
        f"numpy.{core}.{name}": maker
        for core in ("core", "_core")
        for name, maker in {
            "multiarray._reconstruct": PickledArray,
            "numeric._frombuffer": _of_buffer,
        }.items()
    },
    "numpy.dtype": PickledType,
}
