"""Plain values out of a pickle, of which nothing is run, imported, compared or hashed.

`pickle` calls what a file names. Here every opcode is looked at in turn, and all it can do is put
numbers, texts, lists, tuples and dicts together. What the file names is asked of the caller, who
gives a function of their own, or refuses.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from typing import Any

from jc2i.files import TooLarge


class Refused(Exception):
    """The content is readable but nothing that this reader takes."""


class PassedOver:
    """Stands for an object that is named in a pickle and of no interest; it holds nothing."""


def read(
    stream: io.BytesIO,
    find: Callable[[str, str], Any],
    persistent: Callable[[Any], Any],
    most: int,
) -> Any:
    """The next pickle of a stream.

    Args:
      stream: where the pickle begins; afterwards, behind its end.
      find: gives what stands for a module and a name in it: a function, which is called where the
        pickle calls what it names; `PassedOver`; or a value.
      persistent: gives what stands for a persistent identifier.
      most: the most opcodes that are followed, of which each takes some hundred bytes of memory.

    Returns:
      The value. Dicts and lists may hold themselves, and anything may be nested to any depth: it
      is not to be printed, compared or hashed.

    Raises:
      Refused: it holds what is not taken.
      files.TooLarge: it holds too much.
      Exception: of almost every kind, on damaged content.
    """
    machine = _Machine(find, persistent, most)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(stream)):
        if count >= most:
            raise TooLarge("a pickle of more values", f"at most {most} (max_bytes= raises it)")
        machine.step(opcode.name, argument)
    return machine.stack.pop()


_MARK = object()
_VALUES = {
    *("INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT"),
    *("STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8"),
    *("UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8", "BYTEARRAY8"),
}
_NAMED = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False, "EMPTY_TUPLE": (), "MARK": _MARK}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


class _Machine:
    """The stack and the memory that opcodes work on."""

    def __init__(
        self, find: Callable[[str, str], Any], persistent: Callable[[Any], Any], most: int
    ) -> None:
        self.stack: list[Any] = []
        self._most = most
        self._memory: dict[int, Any] = {}
        self._find, self._persistent = find, persistent

    def step(self, name: str, argument: Any) -> None:
        stack = self.stack
        if name in _VALUES:
            stack.append(argument)
            return
        if name in _NAMED:
            stack.append(_NAMED[name])
            return
        match name:
            case "PROTO" | "FRAME" | "STOP":
                pass
            case "POP":
                stack.pop()
            case "POP_MARK":
                self._above_mark()
            case "DUP":
                stack.append(stack[-1])
            case "PUT" | "BINPUT" | "LONG_BINPUT":
                if argument >= self._most:
                    raise Refused(f"damaged: object {argument}")
                self._memory[argument] = stack[-1]
            case "MEMOIZE":
                self._memory[len(self._memory)] = stack[-1]
            case "GET" | "BINGET" | "LONG_BINGET":
                stack.append(self._memory[argument])
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                size = _TUPLES[name]
                stack[-size:] = [tuple(stack[-size:])]
            case "TUPLE" | "FROZENSET":
                stack.append(tuple(self._above_mark()))
            # Sets are lists, so that nothing in them is hashed.
            case "EMPTY_LIST" | "EMPTY_SET":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "LIST":
                stack.append(self._above_mark())
            case "DICT":
                stack.append(_filled({}, self._above_mark()))
            case "APPEND":
                self._extend([stack.pop()])
            case "APPENDS" | "ADDITEMS":
                self._extend(self._above_mark())
            case "SETITEM":
                value, key = stack.pop(), stack.pop()
                _filled(stack[-1], [key, value])
            case "SETITEMS":
                values = self._above_mark()
                _filled(stack[-1], values)
            case "GLOBAL":
                stack.append(self._find(*argument.split(" ", 1)))
            case "STACK_GLOBAL":
                inner, module = stack.pop(), stack.pop()
                if not isinstance(inner, str) or not isinstance(module, str):
                    raise Refused("damaged: a name that is no text")
                stack.append(self._find(module, inner))
            case "REDUCE" | "NEWOBJ":
                arguments, function = stack.pop(), stack.pop()
                stack.append(_called(function, arguments))
            case "NEWOBJ_EX":
                _, arguments, function = stack.pop(), stack.pop(), stack.pop()
                stack.append(_called(function, arguments))
            case "INST":
                stack.append(_called(self._find(*argument.split(" ", 1)), self._above_mark()))
            case "OBJ":
                function, *arguments = self._above_mark()
                stack.append(_called(function, arguments))
            case "BUILD":  # sets attributes, of which none is of interest
                stack.pop()
            case "PERSID":
                stack.append(self._persistent(argument))
            case "BINPERSID":
                stack.append(self._persistent(stack.pop()))
            case _:
                raise Refused(f"refused the operation {name}")

    def _above_mark(self) -> list[Any]:
        place = len(self.stack) - 1
        while self.stack[place] is not _MARK:
            place -= 1
            if place < 0:
                raise Refused("damaged: a mark is missing")
        above = self.stack[place + 1 :]
        del self.stack[place:]
        return above

    def _extend(self, values: list[Any]) -> None:
        if not isinstance(self.stack[-1], list):
            raise Refused("damaged: values that are put into no list")
        self.stack[-1].extend(values)


def _filled(found: Any, values: list[Any]) -> dict:
    if not isinstance(found, dict) or len(values) % 2:
        raise Refused("damaged: entries that are put into no dict")
    for key, value in zip(values[::2], values[1::2], strict=True):
        # The hash of a nested tuple may take for ever, or more stack than there is.
        parts = key if isinstance(key, tuple) else (key,)
        if not all(isinstance(part, str | bytes | int | float | None) for part in parts):
            raise Refused("an entry whose name is no plain value")
        found[key] = value
    return found


def _called(function: Any, arguments: Any) -> Any:
    if function is PassedOver:
        return PassedOver()
    if not callable(function) or not isinstance(arguments, tuple | list):
        raise Refused("damaged: a call of what is no function")
    return function(*arguments)
