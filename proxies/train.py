"""`accelerate launch -m proxies.train RUN.yaml [--section.key value ...] [--reuse mixture.json] [--resume]`: learn
domain weights.
"""

import sys
from collections.abc import Sequence

from mixtures.errors import UserError
from proxies.command import command
from proxies.settings import Settings, load_settings

USAGE = "usage: accelerate launch -m proxies.train RUN.yaml [--section.key value ...] [--reuse mixture.json] [--resume]"


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code: 0, or 2 with one message for what the user gave wrong."""
    return command(arguments, usage=USAGE, kind=Settings, act=_train)


def _train(words: list[str]) -> None:
    path, *overrides = [word for word in words if word != "--resume"] or ["--"]
    if path.startswith("--"):
        raise UserError(f"the run's YAML file comes first; {USAGE}")
    from proxies.learn import train  # torch and transformers are loaded only for a run that will start

    train(load_settings(path, overrides), resume="--resume" in words)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
