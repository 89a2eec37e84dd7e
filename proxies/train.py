"""`accelerate launch -m proxies.train RUN.yaml [--section.key value ...] [--resume]`: learn domain weights with a proxy model."""

import os
import sys
import time
from collections.abc import Sequence

import doge
from mixtures.errors import UserError
from proxies.config import help_text, load_settings

USAGE = "usage: accelerate launch -m proxies.train RUN.yaml [--section.key value ...] [--resume]"


def main(arguments: Sequence[str]) -> int:
    """The command; returns its exit code: 0, or 2 with one message for what the user gave wrong."""
    words = list(arguments)
    if not words or "--help" in words or "-h" in words:
        print(f"{USAGE}\n\nsettings, in the YAML file or as flags:\n{help_text()}")
        return 0 if words else 2
    resume = "--resume" in words
    words = [word for word in words if word != "--resume"]
    try:
        if not words or words[0].startswith("--"):
            raise UserError(f"the run's YAML file comes first; {USAGE}")
        from proxies.run import train  # torch and transformers are loaded only for a run that will start

        train(load_settings(words[0], words[1:]), resume=resume)
    except (UserError, doge.NoRuleError) as error:
        if rank := int(os.environ.get("RANK", 0)):
            time.sleep(10)  # the first process says it; the launcher stops this one unless the fault is its own
            print(f"[process {rank}] ", end="", file=sys.stderr)
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
