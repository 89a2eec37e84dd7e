"""One finding of a diagnosis, and how names are listed in it."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, JsonValue

from mixtures.text import shorten

NAMED = 6  # most names in a sentence


class Finding(BaseModel):
    """One finding of a diagnosis.

    Status `unknown` means that the run did not record what the finding needs; the sentence says what.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    status: Literal["pass", "warn", "unknown"]
    value: dict[str, JsonValue]
    sentence: str


def make_finding(name: str, sentence: str, *, warn: bool = False, value: Mapping[str, Any] | None = None) -> Finding:
    """Return a finding; without a value, its status is unknown."""
    status: Literal["pass", "warn", "unknown"] = "unknown" if value is None else "warn" if warn else "pass"
    return Finding(id=name, status=status, value=dict(value or {}), sentence=sentence)


def names_text(names: Sequence[str]) -> str:
    """List names in a sentence, such as `a, b and 3 more`."""
    shown = [shorten(name) for name in names[:NAMED]]
    return ", ".join(shown) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")
