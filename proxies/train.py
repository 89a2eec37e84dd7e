"""The command `accelerate launch -m proxies.train RUN.yaml [--section.key value ...] [--resume [auto]]`.

It learns domain weights. From Python, call the module: `proxies.train(settings)`.
"""

import sys
from collections.abc import Sequence
from types import ModuleType
from typing import Literal

from mixtures.errors import UserError
from mixtures.run.run import RunRecord
from proxies.command import command
from proxies.settings import Settings, load_settings

USAGE = (
    "usage: accelerate launch -m proxies.train RUN.yaml [--section.key value ...] [--reuse mixture.json] "
    "[--resume [auto]]\n"
    "--resume continues a run, --resume auto starts it if there is none"
)


class CallableModule(ModuleType):
    """The type of this module, which makes `proxies.train` a module and, called with settings, a function."""

    def __call__(self, settings: Settings, *, resume: bool | Literal["auto"] = False) -> RunRecord | None:
        """Train with these settings, as the command does, and return the run's record (see `proxies.learn.train`)."""
        from proxies.learn import train  # torch and transformers are loaded only for a run that will start

        return train(settings, resume=resume)


def main(arguments: Sequence[str]) -> int:
    """Run the command and return its exit code: 0, or 2 after one message on an error that the user can correct."""
    return command(arguments, usage=USAGE, kind=Settings, act=_train)


def _train(words: list[str]) -> None:
    resume: bool | Literal["auto"] = "--resume" in words
    if resume:
        place = words.index("--resume")
        if words[place + 1 : place + 2] == ["auto"]:
            resume = "auto"
            words = [*words[:place], *words[place + 2 :]]
    path, *overrides = [word for word in words if word != "--resume"] or ["--"]
    if path.startswith("--"):
        raise UserError(f"the run's YAML file comes first; {USAGE}")
    from proxies.learn import train

    train(load_settings(path, overrides), resume=resume)


sys.modules[__name__].__class__ = CallableModule

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
