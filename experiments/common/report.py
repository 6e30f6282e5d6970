"""Results as files: figures, and one HTML page that needs nothing beside it."""

from __future__ import annotations

import base64
import io
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jinja2
import numpy as np

from experiments.common.tables import Row, read_csv
from jc2i.files import write_whole

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Section:
    """One heading of a report and what stands under it.

    Attributes:
      heading: a few words.
      text: plain text; an empty line starts a paragraph, lines that begin with `- ` are a list.
      figures: caption to figure, or to the path of a PNG.
      tables: caption to rows, or to the path of a CSV.
    """

    heading: str
    text: str = ""
    figures: Mapping[str, Figure | Path] = field(default_factory=dict)
    tables: Mapping[str, Sequence[Row] | Path] = field(default_factory=dict)


def write_json(path: str | Path, content: Mapping[str, Any]) -> None:
    """Writes a JSON file, whole or not at all.

    Args:
      path: file to write; its folder is made.
      content: names to plain values.
    """
    _write(Path(path), (json.dumps(content, indent=1) + "\n").encode())


def write_figure(path: str | Path, figure: Figure) -> None:
    """Writes a figure as PNG, whole or not at all.

    Args:
      path: file to write; its folder is made.
      figure: the figure.
    """
    _write(Path(path), _png(figure))


def write_report(
    path: str | Path,
    title: str,
    summary: str,
    sections: Sequence[Section],
    provenance: Mapping[str, str],
) -> None:
    """Writes one HTML page with its figures inside: no script, nothing fetched.

    A table's columns `x`, `x_low` and `x_high` are shown as one, "x [x_low, x_high]", and
    `x_count` only where it varies.

    Args:
      path: file to write; its folder is made.
      title: the page's title.
      summary: what was found, in plain words, as `Section.text`.
      sections: the rest, in order.
      provenance: how it was made, name to value.

    Raises:
      FileNotFoundError: when a figure or a table is a path that is not there; nothing is
        written then.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    page = environment.get_template("report.html.jinja").render(
        title=title,
        summary=summary,
        sections=sections,
        provenance=provenance,
        paragraphs=_paragraphs,
        embedded=lambda figure: base64.b64encode(_png(figure)).decode(),
        cells=_table,
        zip=zip,
    )
    _write(Path(path), page.encode())


class _Column(NamedTuple):
    name: str
    numeric: bool


class _Cell(NamedTuple):
    value: str
    interval: str = ""


class _Table(NamedTuple):
    columns: list[_Column]
    rows: list[list[_Cell]]


def _table(source: Sequence[Row] | Path) -> _Table:
    rows = read_csv(source) if isinstance(source, Path) else source
    names = list(rows[0]) if rows else []
    with_interval = {name for name in names if {f"{name}_low", f"{name}_high"} <= set(names)}
    folded = {f"{name}_{end}" for name in with_interval for end in ("low", "high")}
    # A number of images that is the same in every row tells a reader nothing.
    counts = {f"{name}_count" for name in with_interval} & set(names)
    folded |= {name for name in counts if len({row[name] for row in rows}) == 1}
    shown = [name for name in names if name not in folded]
    columns = [
        _Column(name.replace("_", " "), all(_is_number(row[name]) for row in rows))
        for name in shown
    ]

    def cell(row: Row, name: str) -> _Cell:
        value = _format(row[name])
        if name not in with_interval or not np.isfinite(row[f"{name}_low"]):
            return _Cell(value)
        return _Cell(value, f"[{_format(row[f'{name}_low'])}, {_format(row[f'{name}_high'])}]")

    return _Table(columns, [[cell(row, name) for name in shown] for row in rows])


def _format(value: Any) -> str:
    """A number to three significant digits, large and whole ones in full; others as text."""
    if not _is_number(value):
        return str(value)
    if np.isnan(value):
        return "–"
    if abs(value) < 1e6 and (float(value).is_integer() or abs(value) >= 1000):
        return f"{value:.0f}"
    return f"{value:#.3g}".rstrip(".")


def _is_number(value: Any) -> bool:
    return isinstance(value, Real | np.number) and not isinstance(value, bool | np.bool_)


def _paragraphs(text: str) -> list[tuple[str, list[str]]]:
    """Blocks of plain text: ("paragraph", lines) or ("list", items)."""
    blocks = []
    for block in re.split(r"\n\s*\n", text.strip()):
        lines = [line.strip() for line in block.splitlines() if line.strip()]
        if lines and all(line.startswith("- ") for line in lines):
            blocks.append(("list", [line.removeprefix("- ") for line in lines]))
        elif lines:
            blocks.append(("paragraph", lines))
    return blocks


def _png(figure: Figure | Path) -> bytes:
    if isinstance(figure, Path):
        return figure.read_bytes()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _write(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, content)
