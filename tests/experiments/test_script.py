"""A paper's script: what is written, and what a study has nothing to say of."""

from __future__ import annotations

import pytest

from experiments.common.script import Result, Script
from experiments.common.subject import Options
from experiments.common.tables import read_csv


def table1(measured):
    """Table 1: the options."""
    return Result("Table 1: the options", "As given.", [{"images": measured.images}])


def table2(measured):
    """Table 2: of many images."""
    if measured.images < 10:
        return None
    return Result("Table 2: many", "More.", [{"images": measured.images}])


SCRIPT = Script(
    "Paper",
    Options,
    lambda options: options,
    {"table1": table1, "table2": table2},
    lambda options: [{"claim": "it is so", "verdict": "holds"}],
    lambda options, results: f"of {', '.join(results)}",
)


def study(folder, images):
    return Options(name="study", out=folder, images=images, progress=False)


@pytest.mark.parametrize(("images", "names"), [(10, ["table1", "table2"]), (9, ["table1"])])
def test_a_report_leaves_out_what_there_is_nothing_to_say_of(tmp_path, images, names):
    page = SCRIPT.run("report", study(tmp_path, images))
    assert page == tmp_path / "study" / "report.html"
    files = {path.name for path in page.parent.iterdir()}
    assert files == {"report.html", "report.json", "claims.csv", *(f"{n}.csv" for n in names)}
    text = page.read_text()
    assert f"of {', '.join(names)}" in text and "Paper: study" in text
    assert ("Table 2: many" in text) == ("table2" in names)
    assert read_csv(page.parent / "table1.csv") == [{"images": images}]


def test_one_asked_for_is_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(
        ValueError, match=r"^table2: Table 2: of many images\. Not of this study\.$"
    ):
        SCRIPT.run("table2", study(tmp_path, 9))
    assert not list(tmp_path.iterdir())
    assert SCRIPT.run("table2", study(tmp_path, 10)) == tmp_path / "study"
    files = {path.name for path in (tmp_path / "study").iterdir()}
    assert files == {"table2.csv", "table2.json"}


def test_claims_alone_compute_no_table(tmp_path):
    assert SCRIPT.run("claims", study(tmp_path, 9)) == tmp_path / "study"
    files = {path.name for path in (tmp_path / "study").iterdir()}
    assert files == {"claims.csv", "claims.json"}
    rows = read_csv(tmp_path / "study" / "claims.csv")
    assert rows == [{"claim": "it is so", "verdict": "holds"}]
