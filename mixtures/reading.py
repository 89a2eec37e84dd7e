"""JSON files that a person may have touched: every fault becomes one clear message."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from mixtures.errors import UserError


def list_faults(error: ValidationError) -> list[str]:
    """Every fault that pydantic found, one line each, with its place and what was found."""
    lines = []
    for fault in error.errors():
        message = fault["msg"].removeprefix("Value error, ")
        place = ".".join(str(step) for step in fault["loc"])
        if place:
            found = repr(fault["input"])
            shown = f" (found {found})" if fault["type"] != "missing" and len(found) <= 80 else ""
            message = f"{place}: {message}{shown}"
        lines += [f"  - {line}" for line in message.split("\n")]
    return lines


def read_json(path: str | Path) -> Any:
    """Parsed JSON. Raises UserError for a missing file, broken JSON (line and column), and a key given twice."""
    path = Path(path)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if twice := [name for name, times in Counter(name for name, _ in pairs).items() if times > 1]:
            raise UserError(f"{path} gives {', '.join(twice)} twice in one object; keep one of them")
        return dict(pairs)

    try:
        return json.loads(path.read_bytes().decode("utf-8"), object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path} is not complete JSON: line {error.lineno}, column {error.colno}: {error.msg}; it is truncated or "
            "damaged: write it again, or restore it from a copy"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text (byte {error.start}): give a JSON file") from error
    except FileNotFoundError as error:
        raise UserError(f"{path} is not there; give the path of a JSON file") from error
    except IsADirectoryError as error:
        raise UserError(f"{path} is a directory; give the path of a JSON file") from error
