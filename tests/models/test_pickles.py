from __future__ import annotations

import io
import pickle
from collections import OrderedDict

import pytest

from jc2i.models.pickles import PassedOver, Refused, read

VALUE = {
    "numbers": [0, 255, 65_536, -(2**40), 2**100, 0.5, True, False, None],
    "texts": ["", "x" * 300, "naïve", b"bytes", b"x" * 300],
    "tuples": ((), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)),
    1: {"nested": {"deeply": [[[]]]}},
    ("a", 1): "keys may be tuples",
    None: 0.25,
}


def find(module: str, name: str):
    if module == "collections":
        return lambda pairs=(): dict(pairs)
    if module == "argparse":
        return PassedOver
    raise Refused(f"{module}.{name}")


def from_bytes(content: bytes, most: int = 10_000):
    return read(io.BytesIO(content), find, lambda pid: f"<{pid}>", most)


@pytest.mark.parametrize("protocol", range(6))
def test_plain_values_are_what_pickle_makes_of_them(protocol):
    value = VALUE
    if protocol < 3:  # before, bytes are a call of an encoder
        value = VALUE | {"texts": [text for text in VALUE["texts"] if isinstance(text, str)]}
    content = pickle.dumps(value, protocol)
    assert from_bytes(content) == pickle.loads(content) == value


@pytest.mark.parametrize("protocol", range(2, 6))
def test_names_are_asked_for(protocol):
    import argparse

    found = from_bytes(pickle.dumps({"a": OrderedDict(b=1), "args": argparse.Namespace(c=2)}))
    assert found["a"] == {"b": 1} and isinstance(found["args"], PassedOver)
    with pytest.raises(Refused, match="fractions.Fraction"):
        from_bytes(pickle.dumps(__import__("fractions").Fraction(1, 2), protocol))


def test_sets_are_lists():
    assert sorted(from_bytes(pickle.dumps({1, 2, 3}, 4))) == [1, 2, 3]
    assert from_bytes(pickle.dumps(frozenset([7]), 4)) == (7,)


def test_a_value_may_hold_itself():
    value: list = [1]
    value.append(value)
    found = from_bytes(pickle.dumps(value))
    assert found[1] is found


def test_a_stream_of_pickles_is_read_one_by_one():
    stream = io.BytesIO(pickle.dumps(1) + pickle.dumps("two") + b"rest")
    assert [read(stream, find, str, 10) for _ in range(2)] == [1, "two"]
    assert stream.read() == b"rest"


def test_identifiers_are_asked_for():
    assert from_bytes(b"\x80\x02K\x07Q.") == "<7>"
    assert from_bytes(b"Pseven\n.") == "<seven>"


def test_only_so_many_values_are_made():
    content = pickle.dumps(list(range(100)))
    assert len(from_bytes(content, 110)) == 100
    with pytest.raises(Exception, match=r"at most 50 \(max_bytes= raises it\)"):
        from_bytes(content, 50)
