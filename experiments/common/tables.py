"""Tables as CSV: rows of names and values, an interval as several columns.

`jc2i.statistics.Interval.columns` gives the columns of an interval: `x`, `x_low`, `x_high` and
`x_count`, which a report shows as one.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jc2i.checks import invalid
from jc2i.files import write_whole

Row = Mapping[str, Any]


def write_csv(path: str | Path, rows: Sequence[Row]) -> None:
    """Writes a table, whole or not at all: a kill leaves the old file or the new one.

    Args:
      path: file to write; its folder is made.
      rows: name to value; the columns are those of the first row, in its order.

    Raises:
      ValueError: when there is no row, or a row has other columns than the first.
    """
    if not rows:
        raise invalid("rows", "none", "at least one row")
    columns = list(rows[0])
    for row in rows:
        if set(row) != set(columns):
            raise invalid("rows", f"a row of {sorted(row)}", f"rows of {sorted(columns)}")
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, text.getvalue().encode())


def read_csv(path: str | Path) -> list[dict[str, Any]]:
    """The rows of a table that `write_csv` wrote, its numbers as numbers.

    Args:
      path: file to read.

    Returns:
      One dictionary a row, in order.
    """
    with Path(path).open(newline="", encoding="utf-8") as file:
        return [{name: _number(cell) for name, cell in row.items()} for row in csv.DictReader(file)]


def _number(cell: str) -> Any:
    for kind in (int, float):
        try:
            return kind(cell)
        except ValueError:
            continue
    return cell
