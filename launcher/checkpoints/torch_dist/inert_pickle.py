"""Read a pickle into inert records; no code of a checkpoint ever runs."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection
from typing import Any

from launcher.checkpoints.fields import MOST_DIMENSIONS

Name = tuple[str, str]
"""The module and the name of what a pickle asks for."""

DTYPES = {
    "float64", "float32", "float16", "bfloat16", "float8_e4m3fn", "float8_e5m2",
    "int64", "int32", "int16", "int8", "uint8", "bool",
}  # fmt: skip

BYTES_PER_OBJECT = 3
"""A pickle may make one container, mark or memo entry for so many of its bytes (honest ones need 5 at least)."""

LONGEST_NUMBER = 8
"""Bytes of a whole number: longer ones cost more than they are worth to hash and to print."""


class Inert(Exception):
    """A pickle that is damaged, names what is not allowed, or makes more than its size justifies."""


class Global:
    """Stands for a class or function that a pickle names; it is never looked up."""

    __slots__ = ("name",)

    def __init__(self, name: Name) -> None:
        self.name = name


class Record:
    """Stands for an instance: the ``name`` of its class, the ``args`` it was made with, the ``state`` it was given."""

    __slots__ = ("args", "name", "state")

    def __init__(self, name: Name | None, args: Any) -> None:
        self.name = name
        self.args = args
        self.state: Any = {}

    def __repr__(self) -> str:
        return f"<{'.'.join(self.name or ('object',))[:200]}>"


def loads(data: bytes, allowed: Collection[Name] | None = None) -> Any:
    """Return what a pickle of protocol 2 or later holds, with a `Record` for every object and None for tensors' data.

    ``allowed`` are the names that may occur; None allows all, since none is ever looked up. Time and memory are bounded
    by the length of ``data``. Raises `Inert`.
    """
    machine = _Machine(data, allowed)
    try:
        while (code := machine.code()) != STOP:
            step = STEPS.get(code)
            if step is None:
                raise Inert(f"its instruction {chr(code)!r} is not one of a plain pickle")
            step(machine)
        return machine.pop()
    except (IndexError, KeyError, TypeError, ValueError, struct.error) as error:
        raise Inert("it is damaged") from error


class _Machine:
    """The stack, the marks and the memo of one pickle."""

    def __init__(self, data: bytes, allowed: Collection[Name] | None) -> None:
        self.data = memoryview(data)
        self.allowed = allowed
        self.position = 0
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.left = len(data) // BYTES_PER_OBJECT + 4096

    def code(self) -> int:
        self.position += 1
        if self.position > len(self.data):
            raise Inert("it was cut short")
        return self.data[self.position - 1]

    def take(self, count: int) -> memoryview:
        end = self.position + count
        if end > len(self.data):
            raise Inert("it was cut short")
        found = self.data[self.position : end]
        self.position = end
        return found

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")

    def line(self) -> str:
        end = bytes(self.data[self.position : self.position + 1000]).index(b"\n")
        return bytes(self.take(end + 1)[:-1]).decode()

    def text(self, size: int) -> None:
        self.stack.append(str(self.take(self.number(size)), "utf-8"))

    def octets(self, size: int) -> None:
        self.stack.append(bytes(self.take(self.number(size))))

    def long(self, size: int) -> None:
        length = self.number(size)
        if length > LONGEST_NUMBER:
            raise Inert(f"it holds a whole number of {length} bytes (expected at most {LONGEST_NUMBER})")
        self.stack.append(int.from_bytes(self.take(length), "little", signed=True))

    def charge(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise Inert("it makes more objects than its size justifies")

    def make(self, value: Any) -> None:
        self.charge()
        self.stack.append(value)

    def mark(self) -> None:
        self.charge()
        self.marks.append(len(self.stack))

    def marked(self) -> list[Any]:
        """Take what lies above the last mark."""
        start = self.marks.pop()
        found = self.stack[start:]
        del self.stack[start:]
        return found

    def pop(self) -> Any:
        return self.stack.pop()

    def last(self, count: int) -> None:
        """Replace the topmost values by a tuple of them."""
        if len(self.stack) < count:
            raise Inert("it is damaged")
        made = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.make(made)

    def keep(self, place: int) -> None:
        self.charge()
        self.memo[place] = self.stack[-1]

    def recall(self, size: int) -> None:
        self.stack.append(self.memo[self.number(size)])

    def put(self, items: list[Any]) -> None:
        """Set the items, key and value in turn, of the dictionary on top; those of a `Record` are dropped."""
        target = self.stack[-1]
        if not isinstance(target, (dict, Record)) or len(items) % 2:
            raise Inert("it is damaged")
        if isinstance(target, dict):
            for key, value in zip(items[::2], items[1::2], strict=True):
                if key is not None and not isinstance(key, (str, int, bytes, Record)):  # hashing others may not end
                    raise Inert(f"a key of a dictionary is a {type(key).__name__}")
                target[key] = value

    def extend(self, items: list[Any]) -> None:
        """Add the items to the list on top; those of a `Record` are dropped."""
        target = self.stack[-1]
        if not isinstance(target, (list, Record)):
            raise Inert("it is damaged")
        if isinstance(target, list):
            target.extend(items)

    def named(self, module: Any, name: Any) -> None:
        if not isinstance(module, str) or not isinstance(name, str):
            raise Inert("it is damaged")
        if self.allowed is not None and (module, name) not in self.allowed:
            raise Inert(f"it names {f'{module}.{name}'[:200]!r}, which is not allowed")
        is_dtype = module == "torch" and name in DTYPES
        self.make(name if is_dtype else Global((module, name)))

    def call(self, made: Any, args: Any) -> None:
        """Put a plain value for torch.Size and OrderedDict, a `Record` for a call of anything else."""
        name = made.name if isinstance(made, Global) else None
        if name == ("torch", "Size"):
            (sizes,) = args
            self.make(_dimensions(sizes))
        elif name == ("collections", "OrderedDict"):
            self.make({})
        else:
            self.make(Record(name, args))

    def build(self, state: Any) -> None:
        target = self.stack[-1]
        if isinstance(target, Record):
            target.state = state
        elif not isinstance(target, dict):
            raise Inert("it is damaged")


def _dimensions(sizes: Any) -> tuple[Any, ...]:
    """Return the sizes of a tensor, of which there are few: a list may be given many times and is copied each time."""
    if not isinstance(sizes, (tuple, list)) or len(sizes) > MOST_DIMENSIONS:
        raise Inert(f"a torch.Size of more than {MOST_DIMENSIONS} dimensions")
    return tuple(sizes)


STOP = ord(".")
Step = Callable[[_Machine], Any]


def _call(machine: _Machine) -> None:
    args, made = machine.pop(), machine.pop()
    machine.call(made, args)


def _call_with_names(machine: _Machine) -> None:
    names, args, made = machine.pop(), machine.pop(), machine.pop()
    machine.call(made, (args, names))


def _set_item(machine: _Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.put([key, value])


def _stack_global(machine: _Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.named(module, name)


def _float(machine: _Machine) -> None:
    machine.stack.append(struct.unpack(">d", machine.take(8))[0])


def _integer(machine: _Machine) -> None:
    machine.stack.append(int.from_bytes(machine.take(4), "little", signed=True))


def _without_data(machine: _Machine) -> None:
    """Put a tensor's storage, which is data of another place, as the inert description of it."""
    machine.make(Record(None, machine.pop()))


STEPS: dict[int, Step] = {
    0x80: lambda m: m.take(1),  # the protocol
    0x95: lambda m: m.take(8),  # the length of a frame: nothing is read ahead here
    ord("("): lambda m: m.mark(),
    ord("0"): lambda m: m.pop(),
    ord("1"): lambda m: m.marked(),
    ord("2"): lambda m: m.stack.append(m.stack[-1]),
    ord("N"): lambda m: m.stack.append(None),
    0x88: lambda m: m.stack.append(True),
    0x89: lambda m: m.stack.append(False),
    ord("J"): _integer,
    ord("K"): lambda m: m.stack.append(m.number(1)),
    ord("M"): lambda m: m.stack.append(m.number(2)),
    0x8A: lambda m: m.long(1),
    0x8B: lambda m: m.long(4),
    ord("G"): _float,
    0x8C: lambda m: m.text(1),
    ord("X"): lambda m: m.text(4),
    0x8D: lambda m: m.text(8),
    ord("C"): lambda m: m.octets(1),
    ord("B"): lambda m: m.octets(4),
    0x8E: lambda m: m.octets(8),
    0x96: lambda m: m.octets(8),
    ord("]"): lambda m: m.make([]),
    ord("}"): lambda m: m.make({}),
    ord(")"): lambda m: m.stack.append(()),
    0x8F: lambda m: m.make(Record(("builtins", "set"), ())),
    0x91: lambda m: m.make(Record(("builtins", "frozenset"), tuple(m.marked()))),
    0x85: lambda m: m.last(1),
    0x86: lambda m: m.last(2),
    0x87: lambda m: m.last(3),
    ord("t"): lambda m: m.make(tuple(m.marked())),
    ord("l"): lambda m: m.make(m.marked()),
    ord("a"): lambda m: m.extend([m.pop()]),
    ord("e"): lambda m: m.extend(m.marked()),
    0x90: lambda m: m.extend(m.marked()),
    ord("s"): _set_item,
    ord("u"): lambda m: m.put(m.marked()),
    ord("q"): lambda m: m.keep(m.number(1)),
    ord("r"): lambda m: m.keep(m.number(4)),
    0x94: lambda m: m.keep(len(m.memo)),
    ord("h"): lambda m: m.recall(1),
    ord("j"): lambda m: m.recall(4),
    ord("c"): lambda m: m.named(m.line(), m.line()),
    0x93: _stack_global,
    ord("R"): _call,
    0x81: _call,
    0x92: _call_with_names,
    ord("b"): lambda m: m.build(m.pop()),
    ord("Q"): _without_data,
}
"""What each instruction does, by its code; those of protocols 0 and 1 and of the registry are left out."""
