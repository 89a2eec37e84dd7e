"""Usage, help and error messages of the commands train, score and compare."""

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
    """Run a command and return its exit code: 0, or 2 after one message on an error that the user can correct.

    arguments: the words after the command's name; --help, -h or no word at all prints the usage and all settings.
    act:       the command itself; called with the words. UserError and NoRuleError become the message.
    kind:      the class of the settings, for the help.
    given:     how the settings are given, for the help.
    """
    words = list(arguments)
    if not words or "--help" in words or "-h" in words:
        print(f"{usage}\n\nsettings, {given}:\n{help_text(kind)}")
        return 0 if words else 2
    try:
        act(words)
    except (UserError, doge.NoRuleError) as error:
        if rank := int(os.environ.get("RANK", 0)):
            # the first process prints the message; meanwhile the launcher stops this one, unless only this one fails
            time.sleep(10)
            print(f"[process {rank}] ", end="", file=sys.stderr)
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0
