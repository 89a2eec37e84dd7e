"""The boundary of every command: each error becomes one message and an exit code.

What the user gave or the machine refused ends with one message and exit code 2. Everything else is a fault of this
program: its traceback is kept, and the exit code is 1.
"""

import errno
import os
import platform
import shlex
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stdout
from types import TracebackType
from typing import Any, TextIO

from mixtures.errors import UserError, clipped, printable, quoted
from mixtures.version import VERSION

MOST_LINE = 2_000  # characters of a message's line
MOST_LINES = 200

OS_CAUSES = {  # errors of the operating system: what to do
    errno.ENOSPC: "free some disk space",
    errno.EDQUOT: "free some disk space",
    errno.EFBIG: "free some disk space, or raise the limit of file sizes (ulimit -f)",
    errno.EROFS: "this file system cannot be written: give a place on another one",
    errno.EACCES: "allow it with chmod, or give another place",
    errno.EPERM: "allow it with chmod, or give another place",
    errno.ENOTDIR: "a file stands where a directory belongs: give another place",
    errno.EISDIR: "give the name of a file",
    errno.EEXIST: "give a name that is free",
    errno.ENOENT: "give the path of something that is there",
    errno.ENAMETOOLONG: "a name has at most 255 bytes and a path 4,096: give a shorter one",
    errno.ELOOP: "its links lead in a circle: remove one",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.EIO: "the disk or its connection is broken: try again, and check it",
}
# Errors of Python and of the libraries, by their names, since most of the libraries are not loaded: what to do.
KINDS = {
    "builtins.RecursionError": "a file nests its brackets or blocks too deeply to be read: flatten it, or give the "
    "file that was meant",
    "builtins.OverflowError": "a number is larger than can be computed with: give a smaller one",
    "builtins.MemoryError": "this needs more memory than there is: take smaller numbers or files",
    "builtins.UnicodeDecodeError": "a file is no UTF-8 text: save it as UTF-8, or give the file that was meant",
    "builtins.UnicodeEncodeError": "a text has half of a character (a lone surrogate): write it anew",
    "yaml.YAMLError": "a file is no valid YAML: correct it",
    "json.JSONDecodeError": "a file is no complete JSON: restore it from a copy",
    "pyarrow.ArrowInvalid": "a table cannot be read or written: restore it from a copy",
    "safetensors.SafetensorError": "weights cannot be read or written: check the disk space and the file",
    "torch.OutOfMemoryError": "this needs more memory than the device has: take smaller batches, rows or models",
}
WORDS = {  # in messages of errors that many causes share
    "Symlink loop": "links lead in a circle: remove one",
    "Could not determine home": "a path begins with ~ and the name of nobody here: write the whole path",
    "embedded null": "a path has the character \\0, which no file has: remove it",
    "Exceeds the limit": "a number has too many digits: write a smaller one",
    "DefaultCPUAllocator": "this needs more memory than there is: take smaller batches, rows or models",
    "PytorchStreamWriter": "weights cannot be written: check the disk space",
    "Connection closed by peer": "another process of this run ended: its message says why",
}

# Ends a traceback; the same as .github/ISSUE_TEMPLATE/crash.md asks for.
REPORT = f"""error: this is a fault of the program, not of what you gave. Please report it: open an issue with
  - the lines above
  - the command: {{command}}
  - the settings (the YAML file, or config.yaml of the run), and what the text is
  - the version: {VERSION}, Python {platform.python_version()}, {platform.system()} {platform.machine()}
  - what you expected instead
Remove what others should not see, such as paths and names."""


def guard(act: Callable[[], int], *, known: tuple[type[Exception], ...] = (), rank: int = 0) -> int:
    """Run a command and return its exit code: its own, 2 after a message, or 1 after the traceback of our fault.

    What the command prints cannot steer the terminal. A reader of its output that stops early (`| head`) changes
    nothing else.

    known: classes of errors, beside UserError, whose message is for the user. rank: number of this process; the first
    one prints the message, and the others only if the launcher leaves them the time.
    """
    sys.excepthook = _without_trace
    try:
        with redirect_stdout(Output(sys.stdout)):
            try:
                return act()
            finally:
                sys.stdout.flush()
    except Exception as error:
        message = str(error) if isinstance(error, known) else explain(error)
        if message is None:
            traceback.print_exc()
            print(REPORT.format(command=clipped(printable(shlex.join(sys.argv)), MOST_LINE)), file=sys.stderr)
            return 1
        if rank:
            time.sleep(10)  # meanwhile the launcher stops this process, unless only this one fails
            print(f"[process {rank}] ", end="", file=sys.stderr)
        print(f"error: {_shown(message)}", file=sys.stderr)
        return 2


def _without_trace(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Say in one line that Ctrl-C ended the command, where a step could not be finished first."""
    if issubclass(kind, KeyboardInterrupt):
        print("\nstopped by SIGINT", file=sys.stderr)
    else:
        sys.__excepthook__(kind, error, trace)


def explain(error: Exception) -> str | None:
    """Return the message for an error that the user or the machine caused; None for a fault of this program."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, OSError):
        return explain_os(error)
    names = {f"{kind.__module__.partition('.')[0]}.{kind.__name__}" for kind in type(error).__mro__}
    advice = next((KINDS[name] for name in KINDS if name in names), None) or next(
        (WORDS[words] for words in WORDS if words in str(error)), None
    )
    if advice is None:
        return None
    found = clipped(" ".join(str(error).split()), 300)
    return f"{advice} ({type(error).__name__}{': ' if found else ''}{found})"


def explain_os(error: OSError) -> str:
    """Return the message for an error of the operating system: the file, the true cause, and what to do."""
    if error.errno is None:
        return clipped(" ".join(str(error).split()), 300) or type(error).__name__
    name = error.filename or "a file or a connection"
    shown = clipped(str(name) if isinstance(name, str | os.PathLike) else quoted(name), 300)
    found = f"{shown}: {error.strerror or os.strerror(error.errno)}"
    return found if error.errno == errno.EINVAL else f"{found}; {remedy(error)}"  # EINVAL: files.py says what to do


def remedy(error: Exception) -> str:
    """Return what to do about an error while writing; the disk is full where the error does not say what it is."""
    number = getattr(error, "errno", None) or errno.ENOSPC
    return OS_CAUSES.get(number, "check the path, the disk and the permissions")


def _shown(message: str) -> str:
    """Return a message as it is printed: it neither steers the terminal nor fills it."""
    lines = [clipped(printable(line), MOST_LINE) for line in message.splitlines()]
    more = [f"... and {len(lines) - MOST_LINES:,} more lines"] if len(lines) > MOST_LINES else []
    return "\n".join([*lines[:MOST_LINES], *more])


class Output:
    """Standard output in which control characters are written out, and whose reader may stop early."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        """Write a text. Raises OSError that names standard output, for example where its disk is full."""
        self._do(lambda: self._stream.write(printable(text)))
        return len(text)

    def flush(self) -> None:
        """Hand over all that was written. Raises as `write` does."""
        self._do(self._stream.flush)

    def _do(self, act: Callable[[], object]) -> None:
        try:
            act()
        except OSError as error:
            # what is left goes nowhere, or Python would try and complain again when it ends
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            if not isinstance(error, BrokenPipeError):
                raise OSError(error.errno, error.strerror, "standard output") from error
