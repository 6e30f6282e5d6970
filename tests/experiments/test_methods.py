"""Names in words: what experiments write under figures and in tables."""

import pytest

import jc2i
from experiments.common.methods import words
from jc2i.query import methods

OTHERWISE = {"lrp", "random_map", "meaningful_perturbation"}
"""Those whose documentation begins with other words than their name on a figure."""
DOCUMENTED = {
    name: method.__doc__.partition(":")[0]
    for name, method in methods(jc2i.explainers).items()
    if name not in OTHERWISE and ":" in method.__doc__.splitlines()[0]
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_a_method_is_called_as_its_documentation_calls_it(name):
    assert words(name) == DOCUMENTED[name]
