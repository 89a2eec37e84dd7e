"""What the commands of this package share: usage, help, and one message for what the user gave wrong."""

import os
import sys
import time
from collections.abc import Callable, Sequence

from pydantic import BaseModel

import doge
from mixtures.errors import UserError
from proxies.config import help_text


def command(
    arguments: Sequence[str],
    *,
    usage: str,
    kind: type[BaseModel],
    act: Callable[[list[str]], None],
    given: str = "in the YAML file or as flags",
) -> int:
    """Do `act` with the command's words; the exit code is 0, or 2 with one message for what the user gave wrong."""
    words = list(arguments)
    if not words or "--help" in words or "-h" in words:
        print(f"{usage}\n\nsettings, {given}:\n{help_text(kind)}")
        return 0 if words else 2
    try:
        act(words)
    except (UserError, doge.NoRuleError) as error:
        if rank := int(os.environ.get("RANK", 0)):
            time.sleep(10)  # the first process says it; the launcher stops this one unless the fault is its own
            print(f"[process {rank}] ", end="", file=sys.stderr)
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
