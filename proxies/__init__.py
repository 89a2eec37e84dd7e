"""Running a model: proxies that learn a mixture, score documents, and base models that compare mixtures.

train, score, compare   the commands (`accelerate launch -m proxies.train RUN.yaml`); command: what they share
learn       a whole run, from settings to mixture.json
run         one proxy in training: the loop; step: one update of proxy and weights; doremi: the same for DoReMi
settings    every setting of a run; config: YAML, flags and help
corpus/     from text to rows of tokens
models      proxy models; evaluate: held-out losses; checkpoints; preflight: what must hold before a run starts
simulate    domains cut so that they repeat as in the large run; reuse: learn only what changed
replicates  a run's average weights had its steps been drawn again
place       this process of several: its device, sums over processes
scoring/    every document of a run's text scored by the run's model
comparison/ base models trained on several mixtures

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
    """Return a public name at its first use: a `--help` need not wait for torch."""
    if name == "train":
        return import_module("proxies.train")
    if name in ("Settings", "load_settings"):
        return getattr(import_module("proxies.settings"), name)
    raise AttributeError(f"module 'proxies' has no attribute {name!r}")
