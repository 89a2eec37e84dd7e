"""One finding of a diagnosis, and how names are listed in it."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from mixtures.text import shorten

NAMED = 6  # names in a sentence


class Finding(BaseModel):
    """One thing looked at. `unknown`: the run did not record what it needs; the sentence says what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    status: Literal["pass", "warn", "unknown"]
    value: dict[str, JsonValue]
    sentence: str


def make_finding(name: str, sentence: str, *, warn: bool = False, value: Mapping[str, Any] | None = None) -> Finding:
    """A finding; without a value its status is unknown."""
    status: Literal["pass", "warn", "unknown"] = "unknown" if value is None else "warn" if warn else "pass"
    return Finding(id=name, status=status, value=dict(value or {}), sentence=sentence)


def names_text(names: Sequence[str]) -> str:
    """`a, b and 3 more`."""
    shown = [shorten(name) for name in names[:NAMED]]
    return ", ".join(shown) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
