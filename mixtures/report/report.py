"""`mixtures report`: one self-contained page about a run or a comparison, to decide from."""

from pathlib import Path

from mixtures.compare.directory import is_comparison, read_comparison
from mixtures.errors import UserError
from mixtures.files import write_atomic
from mixtures.report.comparison import comparison_sections, learned_runs, told_by, verdict_on
from mixtures.report.page import page
from mixtures.report.run import run_sections
from mixtures.text import tokens_text


def write_report(source: str | Path, output: str | Path) -> Path:
    """Write the page about a run directory or a comparison's directory into `output`; its path.

    The same records give the same bytes. Raises UserError for a directory that is neither, and for damaged records.
    """
    path = Path(source)
    if not path.is_dir():
        found = "a file" if path.exists() else "not there"
        raise UserError(f"{path} is {found}; give a directory that `proxies.train` or `proxies.compare` wrote")
    write_atomic(output, _comparison(path) if is_comparison(path) else _run(path))
    return Path(output)


def _run(path: Path) -> str:
    sections = run_sections(path, told=verdict_on(path))
    return page(f"Run {path.resolve().name}", "What a proxy run learned about its data mixture", sections)


def _comparison(path: Path) -> str:
    record = read_comparison(path)
    comparison = record.comparison
    subtitle = (
        f"{len(comparison.outcomes)} mixtures compared by base models, {tokens_text(comparison.tokens)} tokens each"
    )
    told = {outcome.name: told_by(comparison, outcome.name) for outcome in comparison.outcomes}
    folds = [
        (f"The run that learned {name}", run_sections(run, told=told.get(name), prefix=f"{name}-"))
        for name, run in learned_runs(record).items()
    ]
    return page(f"Comparison {path.resolve().name}", subtitle, comparison_sections(record), folds=folds)
