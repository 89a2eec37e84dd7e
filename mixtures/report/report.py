"""`mixtures report`: one self-contained page about a run or a comparison, to decide from."""

from dataclasses import dataclass
from html import escape
from pathlib import Path

from mixtures.compare.directory import ComparisonRecord, is_comparison, read_comparison
from mixtures.errors import UserError
from mixtures.files import without_places, write_atomic
from mixtures.report.comparison import comparison_sections, learned_runs, told_by, verdict_on
from mixtures.report.page import page
from mixtures.report.run import run_sections
from mixtures.run.run import RunRecord, read_run
from mixtures.text import tokens_text


@dataclass(frozen=True)
class ReportPage:
    """One self-contained HTML page about a run or a comparison, to decide from."""

    html: str

    def save(self, path: str | Path) -> None:
        """Write the page. Raises OSError on a full disk."""
        write_atomic(path, self.html)

    def _repr_html_(self) -> str:
        """Return the page in a frame, for a notebook."""
        return f'<iframe srcdoc="{escape(self.html)}" width="100%" height="800"></iframe>'


def make_report(source: str | Path | RunRecord | ComparisonRecord, *, full_paths: bool = False) -> ReportPage:
    """Make the page about a run or a comparison, from its directory or its record.

    full_paths: write absolute paths whole, instead of their last names only: the page is for sharing.
    The same records give the same bytes. Raises UserError for a directory that is neither, and for damaged records.
    """
    if isinstance(source, RunRecord | ComparisonRecord):
        html = _run(source) if isinstance(source, RunRecord) else _comparison(source)
        return ReportPage(html if full_paths else without_places(html))
    path = Path(source)
    if not path.is_dir():
        state = "a file" if path.exists() else "not there"
        raise UserError(f"{path} is {state}; give a directory that `proxies.train` or `proxies.compare` wrote")
    return make_report(read_comparison(path) if is_comparison(path) else read_run(path), full_paths=full_paths)


def write_report(
    source: str | Path | RunRecord | ComparisonRecord, output: str | Path, *, full_paths: bool = False
) -> Path:
    """Write the page of `make_report` into the file `output`, and return its path."""
    make_report(source, full_paths=full_paths).save(output)
    return Path(output)


def _run(run: RunRecord) -> str:
    sections = run_sections(run, told=verdict_on(run.path))
    return page(f"Run {run.path.resolve().name}", "What a proxy run learned about its data mixture", sections)


def _comparison(record: ComparisonRecord) -> str:
    path, comparison = record.path, record.comparison
    subtitle = (
        f"{len(comparison.outcomes)} mixtures compared by base models, {tokens_text(comparison.tokens)} tokens each"
    )
    verdicts = {outcome.name: told_by(comparison, outcome.name) for outcome in comparison.outcomes}
    folds = [
        (
            f"The run that learned {name}{f', {run.name}' if len(runs) > 1 else ''}",
            run_sections(read_run(run), told=verdicts.get(name), prefix=f"{name}-{number}-" if number else f"{name}-"),
        )
        for name, runs in learned_runs(record).items()
        for number, run in enumerate(runs)
    ]
    return page(f"Comparison {path.resolve().name}", subtitle, comparison_sections(record), folds=folds)
