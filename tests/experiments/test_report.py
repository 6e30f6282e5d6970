from __future__ import annotations

import base64
import io
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from experiments.common.report import Section, write_figure, write_json, write_report
from experiments.common.tables import read_csv, write_csv
from jc2i.statistics import mean_interval

ROWS = [
    {"method": "RISE", "ssim": 0.51234, "ssim_low": 0.4, "ssim_high": 0.6, "images": 64},
    {"method": "a < b", "ssim": float("nan"), "ssim_low": np.nan, "ssim_high": np.nan, "images": 0},
]


def figure(colour: str) -> Figure:
    drawn = Figure(figsize=(2, 1), dpi=50, facecolor=colour)
    drawn.subplots().plot([0, 1], [0, 1])
    return drawn


def report(folder: Path, *sections: Section, summary: str = "All is well.") -> str:
    path = folder / "results" / "report.html"
    write_report(path, "A report", summary, sections, {"command": "python x.py", "date": "now"})
    return path.read_text()


def test_csv_returns_what_was_written(tmp_path):
    write_csv(tmp_path / "new" / "table.csv", ROWS)
    np.testing.assert_equal(read_csv(tmp_path / "new" / "table.csv"), ROWS)


def test_csv_of_an_interval_has_its_columns(tmp_path):
    interval = mean_interval(np.arange(10.0))
    write_csv(tmp_path / "t.csv", [{"method": "RISE", **interval.columns("area")}])
    (row,) = read_csv(tmp_path / "t.csv")
    assert list(row) == ["method", "area", "area_low", "area_high", "area_count"]
    assert row["area"] == 4.5 and row["area_low"] == interval.low and row["area_count"] == 10


def test_csv_refuses_rows_of_different_columns_and_leaves_the_old_file(tmp_path):
    path = tmp_path / "t.csv"
    write_csv(path, ROWS)
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"rows: got a row of \['b'\], takes rows of \['a'\]"):
        write_csv(path, [{"a": 1}, {"b": 2}])
    with pytest.raises(ValueError, match="rows: got none, takes at least one row"):
        write_csv(path, [])
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["t.csv"]


def test_csv_survives_a_kill_in_the_middle_of_writing(tmp_path):
    path = tmp_path / "t.csv"
    write_csv(path, ROWS)
    before = path.read_bytes()
    script = textwrap.dedent(f"""
        import os, signal
        from pathlib import Path
        from experiments.common.tables import write_csv

        def killed(self, content):
            with open(self, "wb") as file:
                file.write(content[:5])
            os.kill(os.getpid(), signal.SIGKILL)

        Path.write_bytes = killed
        write_csv({str(path)!r}, [{{"method": "other"}}])
    """)
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2])
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == before


def test_report_holds_its_figures_and_asks_for_nothing(tmp_path):
    stored = tmp_path / "stored.png"
    write_figure(stored, figure("red"))
    page = report(
        tmp_path, Section("Maps", "What they show.", {"drawn": figure("blue"), "stored": stored})
    )
    images = [
        Image.open(io.BytesIO(base64.b64decode(data)))
        for data in re.findall(r'src="data:image/png;base64,([^"]+)"', page)
    ]
    assert [image.convert("RGB").getpixel((0, 0)) for image in images] == [
        (0, 0, 255),
        (255, 0, 0),
    ]
    without_figures = re.sub(r'src="data:[^"]+"', "", page)
    assert not re.search(r"<script|<link|https?://|src=|url\(|@import", without_figures)


def test_report_is_well_formed_and_escapes_its_text(tmp_path):
    page = report(
        tmp_path,
        Section("1 < 2 & <b>", "Text with <i>tags</i>.\n\n- one\n- two", tables={"t": ROWS}),
        summary="First.\n\nSecond.",
    )

    class Balance(HTMLParser):
        def __init__(self):
            super().__init__()
            self.open, self.text = [], []

        def handle_starttag(self, tag, attrs):
            if tag not in {"meta", "img"}:
                self.open.append(tag)

        def handle_endtag(self, tag):
            assert self.open.pop() == tag

        def handle_data(self, data):
            self.text.append(data.strip())

    parsed = Balance()
    parsed.feed(page)
    assert parsed.open == []
    for text in (
        "1 < 2 & <b>",
        "Text with <i>tags</i>.",
        "one",
        "two",
        "First.",
        "Second.",
        "a < b",
    ):
        assert text in parsed.text


def test_report_tables_fold_intervals_and_align_numbers(tmp_path):
    path = tmp_path / "table.csv"
    write_csv(path, ROWS)
    for table in (ROWS, path):
        page = report(tmp_path, Section("Tables", tables={"caption": table}))
        assert re.findall(r"<th\b[^>]*>([^<]*)<", page) == ["method", "ssim", "images"]
        assert '<td class="number">0.512 <span class="interval">[0.400, 0.600]</span></td>' in page
        assert '<td class="number">–</td>' in page
        assert '<td class="number">64</td>' in page
        assert "<td>RISE</td>" in page


def test_report_tables_show_counts_only_where_they_vary(tmp_path):
    intervals = [mean_interval(np.arange(n)) for n in (4, 4, 5)]
    tables = {
        "same": [interval.columns("area") for interval in intervals[:2]],
        "varying": [interval.columns("area") for interval in intervals],
    }
    page = report(tmp_path, Section("Tables", tables=tables))
    assert re.findall(r"<th\b[^>]*>([^<]*)<", page) == ["area", "area", "area count"]


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.1, "0.100"), (1.0, "1"), (123.456, "123"), (45678.9, "45679"), (2.5e-7, "2.50e-07")],
)
def test_report_shows_three_digits(tmp_path, value, shown):
    page = report(tmp_path, Section("Tables", tables={"caption": [{"x": value}]}))
    assert f'<td class="number">{shown}</td>' in page


def test_report_says_how_it_was_made(tmp_path):
    page = report(tmp_path)
    assert "<dt>command</dt><dd><code>python x.py</code></dd>" in page
    assert "<dt>date</dt><dd>now</dd>" in page


def test_report_with_a_missing_figure_writes_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone.png"):
        report(tmp_path, Section("Maps", figures={"gone": tmp_path / "gone.png"}))
    assert not (tmp_path / "results").exists()


def test_json_holds_what_it_was_given(tmp_path):
    path = tmp_path / "new" / "run.json"
    write_json(path, {"command": "python x.py", "count": 3})
    assert json.loads(path.read_text()) == {"command": "python x.py", "count": 3}
