"""Everything that runs a model: proxies that learn a mixture or score documents, and base models that compare mixtures.

train.py        the command `accelerate launch -m proxies.train RUN.yaml`: learn domain weights
score.py        the command `accelerate launch -m proxies.score RUN_DIR`: score the documents of a run
compare.py      the command `accelerate launch -m proxies.compare COMPARE.yaml`: compare mixtures by base models
search/         the command `accelerate launch -m proxies.search RUN.yaml`: rounds of proxies that measure mixtures
command.py      usage, help and error messages of the commands
learn.py        a whole run, from settings to mixture.json
run.py          one proxy in training: the loop over the steps, evaluation and records
step.py         one update of the proxy and the domain weights
doremi.py       the same update for DoReMi, and the settings of its reference run
settings.py     every setting of a run
config.py       reading settings from a YAML file and flags; help texts; config.yaml
corpus/         the text of a run: from files and datasets to rows of tokens
models.py       proxy models and their optimizer
evaluate.py     held-out losses per domain
checkpoints.py  saving and loading the state of a run
preflight.py    checks before a run starts
simulate.py     domains cut so that the proxy repeats them as often as the large run will
reuse.py        a run that learns only the domains that changed since another mixture
replicates.py   how a run's average weights would vary if its steps were drawn again
place.py        this process's rank and device, and sums over all processes
scoring/        scores of the documents in a run's corpus, computed with the run's own model
effects/        the exact effect of domains on the loss at a proxy's end
comparison/     base models trained on several mixtures

>>> import proxies
>>> settings = proxies.load_settings("run.yaml", ["--train.steps", "100"])
>>> run = proxies.train(settings)       # the same as the command; returns the run's record
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proxies import train
    from proxies.settings import Settings, load_settings

__all__ = ["Settings", "load_settings", "train"]


def __getattr__(name: str) -> Any:
    """Return a public name, imported at its first use, so that `--help` need not wait for torch."""
    if name == "train":
        return import_module("proxies.train")
    if name in ("Settings", "load_settings"):
        return getattr(import_module("proxies.settings"), name)
    raise AttributeError(f"module 'proxies' has no attribute {name!r}")
