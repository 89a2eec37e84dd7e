"""What a proxy run learned: kept, shown, and handed over. Never imports torch, but in adapters.py.

One folder for each thing that a user does with a mixture:

    schedule/   mixture.json: Mixture, its bounds and checks
    run/        the records that a proxy run leaves: read_run
    samples/    scores of documents, and the weights inside domains that are made of them: read_scores
    stream/     the rows that a trainer reads: MixtureStream
    convert/    mixture.json -> the files of a trainer: convert; formats/: one file per trainer
    imports/    the files of other programs -> a mixture: import_mixture
    compare/    base models trained on several mixtures, in numbers and words: read_comparison
    fit/        a swarm's table -> the best mixture by regression: fit_swarm
    diagnosis/  how far a run's weights can be trusted: diagnose
    plots/      PNGs of all of these: plot
    report/     one HTML page about a run or a comparison: make_report

Loose beside them: export (run directories -> Mixture), adapters (the stream in torch and datasets), __main__ and
commands (the command line), files, text, errors, version.

>>> from mixtures import Mixture
>>> Mixture.load("mixture.json").weights_at(tokens=0)       # {name: share of trained tokens}
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from mixtures.version import VERSION

if TYPE_CHECKING:
    from mixtures.compare.directory import read_comparison
    from mixtures.diagnosis.diagnosis import diagnose
    from mixtures.errors import UserError
    from mixtures.export import export_mixture
    from mixtures.fit.fit import fit_swarm
    from mixtures.imports.mixture import import_mixture
    from mixtures.plots.plot import plot
    from mixtures.report.report import make_report
    from mixtures.run.run import read_run
    from mixtures.samples.scores import read_scores
    from mixtures.schedule.mixture import Mixture
    from mixtures.stream.stream import MixtureStream

__version__ = VERSION
PUBLIC = {  # name: the module that has it
    "Mixture": "mixtures.schedule.mixture",
    "MixtureStream": "mixtures.stream.stream",
    "UserError": "mixtures.errors",
    "diagnose": "mixtures.diagnosis.diagnosis",
    "export_mixture": "mixtures.export",
    "fit_swarm": "mixtures.fit.fit",
    "import_mixture": "mixtures.imports.mixture",
    "make_report": "mixtures.report.report",
    "plot": "mixtures.plots.plot",
    "read_comparison": "mixtures.compare.directory",
    "read_run": "mixtures.run.run",
    "read_scores": "mixtures.samples.scores",
}
__all__ = [
    "Mixture",
    "MixtureStream",
    "UserError",
    "diagnose",
    "export_mixture",
    "fit_swarm",
    "import_mixture",
    "make_report",
    "plot",
    "read_comparison",
    "read_run",
    "read_scores",
]


def __getattr__(name: str) -> Any:
    """Return a public name at its first use: `mixtures --help` need not wait for pydantic."""
    if name in PUBLIC:
        return getattr(import_module(PUBLIC[name]), name)
    raise AttributeError(f"module 'mixtures' has no attribute {name!r}")
