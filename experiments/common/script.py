"""What a paper's script is: a function a table or figure, files of each, and one page of all."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import tyro

from experiments.common.provenance import provenance
from experiments.common.report import Section, write_figure, write_json, write_report
from experiments.common.subject import RunOptions
from experiments.common.tables import write_csv
from jc2i import parallel
from jc2i.caching import keep_compiled_programs
from jc2i.commands import run
from jc2i.files import try_writing_in
from jc2i.statistics import Interval

REPORT = "report"
"""The sub-command that computes all."""

VERDICTS = "claims"
"""The sub-command that computes no table, only which of the paper's claims hold."""

CLAIMS = (
    "Each claim is the mean over images of a paired difference, signed so that the claim says it "
    "is above zero, with its 95 % interval: it holds when the interval lies above zero, fails when "
    "it lies below, and is open otherwise."
)


def verdict(gain: Interval) -> str:
    """Whether a claim of a gain above zero holds, fails or is open."""
    return "holds" if gain.low > 0 else "fails" if gain.high < 0 else "open"


@dataclasses.dataclass(frozen=True)
class Result:
    """A table or figure: what goes into the results' folder and the report."""

    heading: str
    text: str
    rows: list[dict[str, Any]]
    figures: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Script:
    """A paper.

    Attributes:
      title: the report's title, before the study's name.
      options: the class of a study's options.
      measure: a study -> what it measures, each number computed at most once.
      results: what can be computed, by name, in the order of the report: each a function of the
        measurements, whose documentation is the sub-command's. One that returns None has nothing
        to say of this study and is left out of the report.
      claims: the paper's claims as rows with a verdict each.
      summary: what a reader wants to know first, from the measurements and all results.
      about_claims: what a claim's number, interval and verdict are.
    """

    title: str
    options: type
    measure: Callable[[Any], Any]
    results: Mapping[str, Callable[[Any], Result | None]]
    claims: Callable[[Any], Sequence[Mapping[str, Any]]]
    summary: Callable[[Any, Mapping[str, Result]], str]
    about_claims: str = CLAIMS

    def run(self, command: str, study: RunOptions) -> Path:
        """Computes one table or figure, or all of them, and writes the files.

        Of several processes, all compute and the first writes.

        Args:
          command: a name of `results`, `"claims"` or `"report"`.
          study: what to study.

        Returns:
          The folder of the results, or the report's page.

        Raises:
          ValueError: for a result that this study has nothing to say of.
        """
        if parallel.is_first():
            for folder in (study.folder, study.cache or study.out):
                try_writing_in(folder)
        measured = self.measure(study)
        names = {REPORT: list(self.results), VERDICTS: []}.get(command, [command])
        results: dict[str, Result] = {}
        for number, name in enumerate(names, 1):
            if study.progress and parallel.is_first():
                print(f"[{number}/{len(names)}] {name}", flush=True)
            found = self.results[name](measured)
            if found is None:
                continue
            results[name] = found
            if not parallel.is_first():
                continue
            write_csv(study.folder / f"{name}.csv", found.rows)
            for figure, drawn in found.figures.items():
                write_figure(study.folder / f"{figure}.png", drawn)
        if names and not results:
            raise ValueError(f"{command}: {self.results[command].__doc__} Not of this study.")
        page = study.folder / "report.html" if command == REPORT else study.folder
        claims = self.claims(measured) if command in (REPORT, VERDICTS) else []
        summary = self.summary(measured, results) if command == REPORT else ""
        if not parallel.is_first():
            return page
        write_json(study.folder / f"{command}.json", provenance())
        if command in (REPORT, VERDICTS):
            write_csv(study.folder / "claims.csv", claims)
        if command != REPORT:
            return page
        write_report(
            page,
            f"{self.title}: {study.title}",
            summary,
            [
                Section("The paper's claims here", self.about_claims, tables={"claims": claims}),
                *(_section(name, result) for name, result in results.items()),
            ],
            provenance(),
        )
        return page

    def main(self, documentation: str | None) -> None:
        """The command line: a sub-command for each result, and one for all.

        Args:
          documentation: what the script says of itself.
        """
        keep_compiled_programs()
        commands = tyro.extras.SubcommandApp()
        for name in (*self.results, VERDICTS, REPORT):
            commands.command(name=name)(self._command(name))
        try:
            work = commands.cli(description=documentation)
        except ValueError as error:  # an option out of its range
            work = functools.partial(_refuse, error)
        run(work)

    def _run_and_print(self, name: str, study: Options) -> None:
        with parallel.together(study.distributed):
            page = self.run(name, study)
            if parallel.is_first():
                print(page)

    def _command(self, name: str) -> Callable[..., Callable[[], None]]:
        def command(study: Any) -> Callable[[], None]:
            return lambda: self._run_and_print(name, study)

        command.__annotations__["study"] = Annotated[self.options, tyro.conf.arg(name="")]
        found = self.results.get(name)
        others = {
            VERDICTS: "Which of the paper's claims hold.",
            REPORT: "All of them, and one page.",
        }
        command.__doc__ = found.__doc__ if found else others[name]
        return command


def _refuse(error: Exception) -> None:
    raise error


def _section(name: str, result: Result) -> Section:
    # Curves are hundreds of rows: the page shows the figure, the CSV holds the numbers.
    short = len(result.rows) <= 60
    return Section(
        result.heading,
        result.text,
        figures=result.figures,
        tables={name: result.rows} if short else {},
    )
