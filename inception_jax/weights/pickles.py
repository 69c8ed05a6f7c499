"""Reads pickles as plain data. Nothing that a pickle names is imported or called.

Python's own unpickler calls whatever a file names. Here each opcode only moves data. A class or
function is kept as its name, and a call becomes an `Opaque` object with the name and the arguments.
A few names stand for data, such as an ordered dict, a tensor or a NumPy array. Tables map these
names to plain functions, which return the data for the arguments.
"""

from __future__ import annotations

import dataclasses
import io
import pickletools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

MARK = object()
_CONSTANTS = {
    "NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (),
}  # fmt: skip
_MAKERS: dict[str, Callable[[], Any]] = {"EMPTY_LIST": list, "EMPTY_DICT": dict, "EMPTY_SET": list}
_VALUES = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "STRING", "BINSTRING",
    "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE",
    "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8", "FLOAT", "BINFLOAT",
}  # fmt: skip
_IGNORED = {"PROTO", "FRAME", "READONLY_BUFFER"}
_PUTS, _GETS = {"PUT", "BINPUT", "LONG_BINPUT"}, {"GET", "BINGET", "LONG_BINGET"}


_KEYS = (str, int, float, bytes, type(None))  # the hash of nested tuples may overflow the stack


class PickleError(ValueError):
    """Raised for bytes that are not a pickle, or are a damaged pickle."""


@dataclasses.dataclass(frozen=True)
class Name:
    """A class or a function that a pickle names by module and name: `argparse.Namespace`."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module}.{self.name}"


@dataclasses.dataclass(eq=False, repr=False)
class Opaque:
    """An object of an unknown class, as the data that the pickle contains about it.

    Attributes:
        name: name of its class, or of the function that creates it.
        args: arguments of the class or function.
        state: state that unpickling sets, usually a dict of attributes.
        entries: items of an object that is a kind of dict.
        elements: elements of an object that is a kind of list.
    """

    name: str
    args: tuple[Any, ...] = ()
    state: Any = None
    entries: dict[Any, Any] = dataclasses.field(default_factory=dict)
    elements: list[Any] = dataclasses.field(default_factory=list)

    def __repr__(self) -> str:
        return f"<{self.name}>"  # what it holds may be deep beyond any stack

    def attributes(self) -> dict[Any, Any]:
        """Returns the entries and attributes by name, including those of `__slots__`."""
        states = self.state if isinstance(self.state, tuple) else (self.state,)
        found = dict(self.entries)
        for state in states:
            if isinstance(state, dict):
                found |= state
        return found


Data = Mapping[str, Callable[..., Any]]
"""Functions that build data from arguments, by the full name that a pickle uses for them."""


def load(stream: Any, data: Data, persistent: Callable[[Any], Any] | None = None) -> Any:
    """Reads one pickle and returns its object. A file is then positioned at the end of the pickle.

    Args:
        stream: binary file or bytes.
        data: functions that build data from arguments, by the full name in the pickle, such as
            "collections.OrderedDict". A call of any other name becomes `Opaque`.
        persistent: function that returns the data for a persistent id. None: the id becomes
            `Opaque`.

    Raises:
        PickleError: if the pickle is damaged or truncated.
    """
    machine = _Machine(data, persistent)
    stream = io.BytesIO(stream) if isinstance(stream, bytes) else stream
    try:
        for opcode, arg, _ in pickletools.genops(stream):
            if opcode.name == "STOP":
                return machine.stack.pop()
            machine.step(opcode.name, arg)
    except PickleError:
        raise
    # Raised by opcodes in a wrong order, missing bytes and arguments of a wrong type.
    except (ArithmeticError, AttributeError, LookupError, MemoryError, RuntimeError, TypeError,
            ValueError) as error:  # fmt: skip
        raise PickleError(f"damaged ({type(error).__name__}: {error!s:.200})") from None
    raise PickleError("it is truncated")


class _Machine:
    def __init__(self, data: Data, persistent: Callable[[Any], Any] | None):
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.data = data
        self.persistent = persistent

    def step(self, name: str, arg: Any) -> None:
        if name in _VALUES:
            self.stack.append(arg)
        elif name in _CONSTANTS:
            self.stack.append(_CONSTANTS[name])
        elif name in _MAKERS:
            self.stack.append(_MAKERS[name]())
        elif name in _PUTS:
            self.memo[int(arg)] = self.stack[-1]
        elif name in _GETS:
            self.stack.append(self.memo[int(arg)])
        elif name not in _IGNORED:
            method = getattr(self, f"_{name.lower()}", None)
            if method is None:
                raise PickleError(f"it uses {name}, which no weight file needs")
            method(arg)

    def _since_mark(self) -> list[Any]:
        at = len(self.stack) - 1 - self.stack[::-1].index(MARK)
        items = self.stack[at + 1 :]
        del self.stack[at:]
        return items

    def _mark(self, _: Any) -> None:
        self.stack.append(MARK)

    def _pop(self, _: Any) -> None:
        self.stack.pop()

    def _pop_mark(self, _: Any) -> None:
        self._since_mark()

    def _dup(self, _: Any) -> None:
        self.stack.append(self.stack[-1])

    def _memoize(self, _: Any) -> None:
        self.memo[len(self.memo)] = self.stack[-1]

    def _tuple(self, _: Any) -> None:
        self.stack.append(tuple(self._since_mark()))

    def _tuple1(self, _: Any) -> None:
        self.stack[-1:] = [tuple(self.stack[-1:])]

    def _tuple2(self, _: Any) -> None:
        self.stack[-2:] = [tuple(self.stack[-2:])]

    def _tuple3(self, _: Any) -> None:
        self.stack[-3:] = [tuple(self.stack[-3:])]

    def _list(self, _: Any) -> None:
        self.stack.append(self._since_mark())

    _frozenset = _list

    def _dict(self, _: Any) -> None:
        items = self._since_mark()
        self.stack.append(entries(zip(items[::2], items[1::2], strict=True)))

    def _append(self, _: Any) -> None:
        self._extend([self.stack.pop()])

    def _appends(self, _: Any) -> None:
        self._extend(self._since_mark())

    _additems = _appends

    def _extend(self, items: list[Any]) -> None:
        owner = self.stack[-1]
        (owner.elements if isinstance(owner, Opaque) else _checked(owner, list)).extend(items)

    def _setitem(self, _: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def _setitems(self, _: Any) -> None:
        self._update(self._since_mark())

    def _update(self, items: list[Any]) -> None:
        owner = self.stack[-1]
        target = owner.entries if isinstance(owner, Opaque) else _checked(owner, dict)
        target.update(entries(zip(items[::2], items[1::2], strict=True)))

    def _global(self, arg: str) -> None:
        self.stack.append(Name(*arg.split(" ", 1)))

    def _stack_global(self, _: Any) -> None:
        name, module = self.stack.pop(), self.stack.pop()
        self.stack.append(Name(_checked(module, str), _checked(name, str)))

    def _reduce(self, _: Any) -> None:
        args, made_by = self.stack.pop(), self.stack.pop()
        self.stack.append(made(made_by, _checked(args, tuple), self.data))

    _newobj = _reduce

    def _newobj_ex(self, _: Any) -> None:
        self.stack.pop()  # keyword arguments: no function in `data` needs any
        self._reduce(None)

    def _inst(self, arg: str) -> None:
        args = tuple(self._since_mark())
        self.stack.append(made(Name(*arg.split(" ", 1)), args, self.data))

    def _obj(self, _: Any) -> None:
        made_by, *args = self._since_mark()
        self.stack.append(made(made_by, tuple(args), self.data))

    def _build(self, _: Any) -> None:
        state, owner = self.stack.pop(), self.stack[-1]
        if isinstance(owner, Opaque):
            owner.state = state
        elif hasattr(type(owner), "build"):  # data that is built in two steps
            owner.build(state)

    def _binpersid(self, _: Any) -> None:
        key = self.stack.pop()
        self.stack.append(self.persistent(key) if self.persistent else Opaque("persistent", (key,)))

    def _persid(self, arg: str) -> None:
        self.stack.append(Opaque("persistent", (arg,)))

    def _ext1(self, arg: int) -> None:
        self.stack.append(Name("copyreg", f"extension {arg}"))

    _ext2 = _ext4 = _ext1

    def _next_buffer(self, _: Any) -> None:
        raise PickleError("its data is in other files")


def entries(pairs: Iterable[tuple[Any, Any]]) -> dict[Any, Any]:
    """Builds a dict from pairs.

    Keys other than strings, numbers, bytes and None are wrapped in `Opaque`, because hashing them
    may overflow the stack.
    """
    return {key if isinstance(key, _KEYS) else Opaque("key", (key,)): value for key, value in pairs}


def made(made_by: Any, args: tuple[Any, ...], data: Data) -> Any:
    """Returns the data for a call in a pickle; an `Opaque` if `data` has no function for it.

    Args:
        made_by: class or function that is called, usually a `Name`.
        args: arguments of the call.
        data: see `load`.
    """
    name = str(made_by) if isinstance(made_by, Name) else f"a call of {type(made_by).__name__}"
    maker = data.get(name) if isinstance(made_by, Name) else None
    return maker(*args) if maker else Opaque(name, args)


def _checked(value: Any, kind: type) -> Any:
    if type(value) is not kind:
        raise PickleError(f"damaged: a {type(value).__name__} instead of a {kind.__name__}")
    return value
