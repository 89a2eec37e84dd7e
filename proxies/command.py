"""Usage, help and error messages of the commands train, score and compare."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

from pydantic import BaseModel

import doge
from mixtures.boundary import guard
from proxies.config import help_text
from proxies.place import follow_launcher, leave_group


class Stopped(KeyboardInterrupt):
    """A run that a signal stopped after a whole step, with its checkpoint written; `number` is the signal's."""

    def __init__(self, number: int, message: str) -> None:
        super().__init__(message)
        self.number = number


@contextmanager
def stop_signals() -> Iterator[Callable[[], int]]:
    """Give a function that returns the number of the SIGTERM or SIGINT that came while the block runs; 0 for none.

    So a run can finish its step first. The same signal a second time does what it does without this block. In a thread
    that is not the main one, signals are left as they are.
    """
    came = [0]
    if threading.current_thread() is not threading.main_thread():
        yield lambda: 0
        return

    def note(number: int, frame: FrameType | None) -> None:
        signal.signal(number, before[signal.Signals(number)])
        came[0] = number

    before = {number: signal.signal(number, note) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield lambda: came[0]
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def command(
    arguments: Sequence[str],
    *,
    usage: str,
    kind: type[BaseModel],
    act: Callable[[list[str]], None],
    given: str = "in the YAML file or as flags",
) -> int:
    """Run a command and return its exit code: 0; 2 after one message on what the user can correct; 1 after our fault.

    A run that a signal stopped gives 128 and the signal's number (143 for SIGTERM, 130 for SIGINT), after one line.
    arguments: the words after the command's name; --help, -h or no word at all prints the usage and all settings.
    act:       the command itself; called with the words. UserError and NoRuleError become the message.
    kind:      the class of the settings, for the help.
    given:     how the settings are given, for the help.
    """
    words = list(arguments)
    rank = int(os.environ.get("RANK", 0))

    def run() -> int:
        if not words or "--help" in words or "-h" in words:
            print(f"{usage}\n\nsettings, {given}:\n{help_text(kind)}")
            return 0 if words else 2
        follow_launcher()
        try:
            act(words)
        except Stopped as stopped:
            if not rank:
                print(f"\n{stopped}", file=sys.stderr)
            return 128 + stopped.number
        return 0

    try:
        return guard(run, known=(doge.NoRuleError,), rank=rank)
    finally:
        leave_group()
