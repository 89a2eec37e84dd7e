"""`plot(record)`: the figures of any record, for notebooks and papers."""

from functools import singledispatch

from matplotlib.figure import Figure

from mixtures.compare.comparison import Comparison
from mixtures.compare.directory import ComparisonRecord
from mixtures.diagnosis.ladder import Ladder
from mixtures.errors import UserError, quoted
from mixtures.plots.comparison import comparison_figures
from mixtures.plots.ladder import ladder_figure
from mixtures.plots.mixture import mixture_figures
from mixtures.plots.run import run_figures
from mixtures.run.run import RunRecord
from mixtures.schedule.mixture import Mixture


@singledispatch
def figures(record: object) -> dict[str, Figure]:
    """Draw all figures of a run, a mixture, a comparison or a ladder, and return {name: figure}.

    Raises UserError for anything else.
    """
    allowed = "a RunRecord (read_run), a Mixture (Mixture.load), a ComparisonRecord (read_comparison) or a Ladder"
    raise UserError(f"a {type(record).__name__} has no figures; give {allowed}")


figures.register(RunRecord, run_figures)
figures.register(Mixture, mixture_figures)
figures.register(Comparison, comparison_figures)
figures.register(ComparisonRecord, lambda record: comparison_figures(record.comparison))
figures.register(Ladder, lambda ladder: {"ladder": ladder_figure(ladder)})


def plot(record: object, name: str | None = None) -> Figure:
    """Return one figure of a record: the one called `name`, or the first.

    Raises UserError for a record without figures, and for an unknown name; the message lists the names.
    """
    drawn = figures(record)
    if name is None:
        return next(iter(drawn.values()))
    if name not in drawn:
        raise UserError(f"there is no figure {quoted(name)}; allowed: {', '.join(drawn)}")
    return drawn[name]
