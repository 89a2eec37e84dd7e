"""Is a mixture.json what it says it is? Everything derived in it is computed again."""

import math
from collections.abc import Iterator
from pathlib import Path

from mixtures.errors import UserError
from mixtures.mixture import KNOWN_VERSIONS, Mixture, id_fault
from mixtures.reading import read_json
from mixtures.records import Check


def check(path: str | Path) -> list[Check]:
    """Every check of the file `path`, recomputed; `fail` where something drifted, with recorded and computed values.

    Raises UserError for a file that is no readable mixture (its faults listed), as `Mixture.load` does.
    """
    record = read_json(path)
    recorded = record.get("id") if isinstance(record, dict) else None
    content = {key: value for key, value in record.items() if key != "id"} if isinstance(record, dict) else record
    mixture = Mixture.from_record(content, where=str(path))
    return [_version(mixture), _id(mixture, recorded), _sums(mixture), _expected(mixture), *_recorded(mixture)]


def report(path: str | Path) -> str:
    """The checks as text, one a line. Raises UserError with the same text where one of them failed."""
    checks = check(path)
    text = "\n".join(f"{result.status:<5}{result.id}: {result.detail}" for result in checks)
    if failed := [result.id for result in checks if result.status == "fail"]:
        raise UserError(f"{path} is not what it says it is ({', '.join(failed)}):\n{text}")
    return text


def _version(mixture: Mixture) -> Check:
    detail = f"{mixture.schema_version}; known: {', '.join(KNOWN_VERSIONS)}"
    return Check(id="schema_version", status="pass", detail=detail)


def _id(mixture: Mixture, recorded: str | None) -> Check:
    if recorded is None:
        return Check(id="id", status="warn", detail=f"none recorded; the content hashes to {mixture.id}")
    if recorded == mixture.id:
        return Check(id="id", status="pass", detail=mixture.id)
    return Check(id="id", status="fail", detail=id_fault(recorded, mixture.id))


def _sums(mixture: Mixture) -> Check:
    """Building the mixture refused anything further off than its tolerance."""
    worst = max(abs(math.fsum(stage.weights.values()) - 1) for stage in mixture.stages)
    detail = f"{len(mixture.stages)} stage(s), {len(mixture.domains)} domains, furthest from 1 by {worst:.1e}"
    return Check(id="weights_sum", status="pass", detail=detail)


def _expected(mixture: Mixture) -> Check:
    """Recorded tokens and epochs against those that stages and domains imply."""
    if not mixture.expected:
        return Check(id="expected", status="warn", detail="no expected tokens recorded")
    drifted = list(_drift(mixture))
    detail = "; ".join(drifted) if drifted else f"tokens and epochs of {len(mixture.domains)} domains as computed"
    return Check(id="expected", status="fail" if drifted else "pass", detail=detail)


def _drift(mixture: Mixture) -> Iterator[str]:
    recorded = {row.domain: row for row in mixture.expected}
    computed = {row.domain: row for row in mixture.compute_expected()}
    for name in sorted(recorded.keys() ^ computed.keys()):
        yield f"{name} is {'not recorded' if name in computed else 'recorded but no domain'}"
    for name in [name for name in computed if name in recorded]:
        for field in ("tokens", "epochs"):
            was, now = getattr(recorded[name], field), getattr(computed[name], field)
            if not math.isclose(was, now, rel_tol=1e-9, abs_tol=1e-9):
                yield f"{name} recorded {was:,.6g} {field}, computed {now:,.6g}"


def _recorded(mixture: Mixture) -> Iterator[Check]:
    """Warnings and failures that the exporter wrote into the file."""
    for result in mixture.checks:
        if result.status != "pass":
            yield Check(id=f"recorded {result.id}", status=result.status, detail=result.detail)
