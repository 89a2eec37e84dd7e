"""The diagnosis of a run: findings on how far its weights can be trusted, as data and as sentences."""

from pathlib import Path
from textwrap import fill
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from mixtures.diagnosis.finding import Finding
from mixtures.diagnosis.gradients import gram_findings, too_small
from mixtures.diagnosis.repetition import memorised, repetition
from mixtures.diagnosis.weights import clipped, effective_domains, floor, held, settled
from mixtures.errors import UserError
from mixtures.files import list_faults, read_json, write_atomic
from mixtures.run.run import RunRecord, read_run
from mixtures.schedule.bounds import Bound
from mixtures.text import WIDTH

FILE = "diagnosis.json"


class Diagnosis(BaseModel):
    """The findings of a run; the ids and their order are the same for every run."""

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
    """Return the findings of a run, from its records.

    token_budget:   tokens that the base model trains on, to compare its epochs with the proxy's. None: the budget that
                    the run simulated (corpus.simulate_budget), if any.
    unique_tokens:  unique tokens per domain of the base model. Domains not given have those that the run simulated, or
                    else those of the run's text.

    Raises UserError for a damaged run, and for names in `unique_tokens` that are not training domains.
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
        held(run),
        repetition(run, token_budget=token_budget, unique_tokens=unique_tokens),
        memorised(run),
        too_small(run),
        pairs,
    )
    return Diagnosis(steps=len(run.trajectory.steps), findings=findings)


def write_diagnosis(run_dir: str | Path, diagnosis: Diagnosis) -> Path:
    """Write RUN_DIR/diagnosis.json and return its path."""
    path = Path(run_dir) / FILE
    write_atomic(path, diagnosis.model_dump_json(indent=1))
    return path


def read_diagnosis(run_dir: str | Path) -> Diagnosis | None:
    """Read RUN_DIR/diagnosis.json; None if there is none. Raises UserError for a damaged file."""
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
    """Return the warnings as text, or a line that there are none; it is printed below a run's summary.

    `everything`: list all findings, with their status.
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
