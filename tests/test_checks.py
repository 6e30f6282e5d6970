from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jc2i import checks, labelled
from jc2i.options import Number

IMAGES = np.zeros((1, 2, 2, 1), np.float32)
LONG = 10**400


def of_labelled(got):
    values = {"x": got}
    labelled.number(values, "x", "a number above 0", lambda number: 0 < number < np.inf)
    return values["x"]


READERS = {
    "checks": lambda got: checks.number("x", got),
    "labelled": of_labelled,
    "options": lambda got: Number(above=0, takes="a number above 0").read("x", got, IMAGES),
}
ONES = [1, 1.0, np.int8(1), np.float32(1), np.longdouble(1), np.float16(1), np.array(1.0)]
NONE = [True, np.bool_(True), "1", None, 1j, np.complex64(1), [1.0], np.ones(1), ...]


@pytest.mark.parametrize("reader", READERS.values(), ids=READERS)
class TestNumber:
    @pytest.mark.parametrize("one", [*ONES, jnp.ones(()), jnp.ones((), int)], ids=repr)
    def test_a_number_of_any_make_is_read(self, reader, one):
        assert float(reader(one)) == 1

    @pytest.mark.parametrize("none", [*NONE, 0, -1.0, np.nan, np.inf, LONG, -LONG], ids=repr)
    def test_anything_else_is_refused_by_name(self, reader, none):
        with pytest.raises(checks.Refusal, match="^x: got .*, takes a number above 0$"):
            reader(none)

    def test_one_that_is_traced_is_taken_unseen(self, reader):
        assert jax.jit(reader)(-1.0) == -1
        for none in (True, 1j, np.ones(1)):
            with pytest.raises(checks.Refusal, match="^x: got .*, takes a number above 0"):
                jax.jit(reader)(none)


@pytest.mark.parametrize("one", [*ONES[:-1], np.inf, LONG], ids=repr)
def test_plain_numbers_above_zero(one):
    checks.positive(x=one)


@pytest.mark.parametrize("none", [*NONE, 0, -1.0, np.nan, -LONG, np.ones(())], ids=repr)
def test_what_is_no_plain_number_above_zero(none):
    with pytest.raises(checks.Refusal, match="^x: got .*, takes a number above 0$"):
        checks.positive(y=1, x=none)


@pytest.mark.parametrize("one", [1, np.int8(1), LONG], ids=repr)
def test_plain_counts(one):
    checks.count(x=one)


@pytest.mark.parametrize("none", [*NONE, 0, -1, 1.0, np.ones((), int)], ids=repr)
def test_what_is_no_plain_count(none):
    with pytest.raises(checks.Refusal, match="^x: got .*, takes a whole number above 0$"):
        checks.count(y=1, x=none)
