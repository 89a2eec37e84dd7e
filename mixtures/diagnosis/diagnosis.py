"""What can be said about how far a run's weights can be trusted: findings as data and as sentences,
RUN_DIR/diagnosis.json.
"""

from pathlib import Path
from textwrap import fill
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from mixtures.diagnosis.finding import Finding
from mixtures.diagnosis.gradients import gram_findings
from mixtures.diagnosis.repetition import memorised, repetition
from mixtures.diagnosis.weights import clipped, effective_domains, floor, settled
from mixtures.errors import UserError
from mixtures.files import list_faults, read_json, write_atomic
from mixtures.run.run import RunRecord, read_run
from mixtures.schedule.bounds import Bound
from mixtures.text import WIDTH

FILE = "diagnosis.json"


class Diagnosis(BaseModel):
    """The findings of a run, always the same ids in the same order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    steps: int
    findings: tuple[Finding, ...]

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """The findings that ask for a look."""
        return tuple(finding for finding in self.findings if finding.status == "warn")


def diagnose(
    run: str | Path | RunRecord, *, token_budget: float | None = None, unique_tokens: Bound = None
) -> Diagnosis:
    """Look at a run's records.

    token_budget, unique_tokens: of the base, for its epochs beside the proxy's; where not given, what the run simulated
    (corpus.simulate_budget), and for unique tokens the text that the run had. Raises UserError for a damaged
    run and for names in `unique_tokens` that are no training domain.
    """
    run = read_run(run)
    dependable, hurtful, pairs = gram_findings(run)
    findings = (
        settled(run),
        dependable,
        effective_domains(run),
        clipped(run),
        hurtful,
        floor(run),
        repetition(run, token_budget=token_budget, unique_tokens=unique_tokens),
        memorised(run),
        pairs,
    )
    return Diagnosis(steps=len(run.trajectory.steps), findings=findings)


def write_diagnosis(run_dir: str | Path, diagnosis: Diagnosis) -> Path:
    """Write RUN_DIR/diagnosis.json; its path."""
    path = Path(run_dir) / FILE
    write_atomic(path, diagnosis.model_dump_json(indent=1))
    return path


def read_diagnosis(run_dir: str | Path) -> Diagnosis | None:
    """RUN_DIR/diagnosis.json; None where there is none. Raises UserError for a damaged one."""
    path = Path(run_dir) / FILE
    if not path.exists():
        return None
    try:
        return Diagnosis.model_validate(read_json(path))
    except ValidationError as error:
        raise UserError(
            f"{path} is damaged:\n" + "\n".join(list_faults(error)) + "\n`mixtures diagnose` writes it anew"
        ) from error


def diagnosis_text(diagnosis: Diagnosis, *, everything: bool = False) -> str:
    """The warnings, one after the other, or a line that there are none: what stands under a run's summary.
    `everything`: all findings.
    """
    count, warned = len(diagnosis.findings), len(diagnosis.warnings)
    lines = [
        f"diagnosis: {warned} of {count} findings ask for a look"
        if warned
        else f"diagnosis: nothing to warn of in {count} findings"
    ]
    for finding in diagnosis.findings if everything else diagnosis.warnings:
        status = f"{finding.status:8}" if everything else ""
        lines.append(
            fill(f"  {status}{finding.id}: {finding.sentence}", WIDTH, subsequent_indent=" " * (4 + len(status)))
        )
    return "\n".join(lines)
