"""export_report.json: what was asked, what the trainer will really do, and what could not be carried over."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixtures.convert import simulate
from mixtures.convert.job import Job, Output
from mixtures.convert.table import Format
from mixtures.errors import UserError, one_line
from mixtures.files import sha256_file
from mixtures.schedule.records import MANY_EPOCHS
from mixtures.text import table, tokens_text

FILE = "export_report.json"


@dataclass(frozen=True)
class Report:
    """The report of a conversion. record: the content of export_report.json. directory: where the files are."""

    record: dict[str, Any]
    directory: Path

    @property
    def text(self) -> str:
        """Return the report for the terminal: shares asked and given by stage, notes, and how to launch."""
        lines = []
        for stage in self.record["stages"]:
            ranges = stage["token_shares_95"]
            header = [
                "domain",
                "asked",
                "given",
                *(["95 % of runs"] if ranges else []),
                f"per {self.record['unit']}",
                "epochs",
            ]
            rows = [_row(name, stage) for name in stage["asked"]]
            at = f"from {tokens_text(stage['start_tokens'])}" if stage["start_tokens"] else "from the start"
            lines += [
                f"stage {one_line(stage['name'])}: {tokens_text(stage['tokens'])} tokens {at}",
                table(header, rows),
                "",
            ]
        lines += [f"note: {note}" for note in self.record["notes"]]
        lines += [*([""] if self.record["notes"] else []), self.record["use"], "", f"wrote {self.directory}"]
        return "\n".join(lines)


def _row(name: str, stage: Mapping[str, Any]) -> list[str]:
    ranges = stage["token_shares_95"]
    low, high = (ranges or {}).get(name, (0.0, 0.0))
    spread = [f"{low:.4f}-{high:.4f}"] if ranges else []
    numbers = [f"{stage[key].get(name, 0.0):.4f}" for key in ("asked", "given")]
    return [name, *numbers, *spread, f"{stage['unit_shares'].get(name, 0.0):.4f}", f"{stage['epochs'][name]:.3g}"]


def build(job: Job, form: Format, output: Output, *, notes: list[str]) -> dict[str, Any]:
    """Build the record of the report from the writer's output.

    Raises UserError where rounding moves a share too far, and where a domain would be read more often than its cap
    allows.
    """
    shares = [simulate.token_shares(job, draw) for draw in output.draws]
    passes = simulate.epochs(job, output.draws, shares)
    achieved = [
        share if draw.loss is None else _named(job, draw.loss) for share, draw in zip(shares, output.draws, strict=True)
    ]
    _check_shares(job, achieved, output.remedy)
    total = {domain.name: sum(stage[domain.name] for stage in passes) for domain in job.mixture.domains}
    notes = [*notes, *_checked_caps(job, form, total), *_many_epochs(total), *output.notes]
    stages = [
        {
            "name": span.name,
            "start_tokens": draw.start,
            "tokens": draw.tokens,
            "asked_start_tokens": span.start,
            "asked": dict(span.weights),
            "given": weighed,
            "drawn": drawn,
            "unit_shares": dict(draw.shares),
            "token_shares_95": simulate.share_ranges(job, draw),
            "epochs": epochs,
        }
        for span, draw, weighed, drawn, epochs in zip(job.spans, output.draws, achieved, shares, passes, strict=True)
    ]
    texts = {
        name: {"mean_tokens": text.mean_tokens, "pass_tokens": text.pass_tokens, "from": text.origin}
        for name, text in job.texts.items()
    }
    return {
        "format": form.name,
        "trainers": form.trainers,
        "tested": form.tested,
        "mixture": job.mixture.id,
        "unit": job.unit,
        "stages": stages,
        "epochs": total,
        "documents": texts,
        "notes": notes,
        "use": output.use,
    }


def _named(job: Job, shares: Mapping[str, float]) -> dict[str, float]:
    """Return the shares with an entry for every domain of the mixture; 0 where the shares do not name it."""
    return {domain.name: shares.get(domain.name, 0.0) for domain in job.mixture.domains}


def file_text(record: Mapping[str, Any], directory: Path) -> str:
    """Return the text of export_report.json, with the hashes of all files in the directory."""
    files = sorted(path for path in directory.rglob("*") if path.is_file() and not path.is_symlink())
    hashes = {str(path.relative_to(directory)): sha256_file(path) for path in files}
    return json.dumps({**record, "files": hashes}, indent=1) + "\n"


def _check_shares(job: Job, shares: list[dict[str, float]], remedy: str) -> None:
    """Refuse shares that are too far from those asked for. Raises UserError listing them by stage."""
    faults = [
        f"  - {name} in stage {span.title}: {span.weights[name]:.6g} asked, {share:.6g} "
        f"given{' (rounds to zero)' if share == 0 else ''}"
        for span, achieved in zip(job.spans, shares, strict=True)
        for name, share in achieved.items()
        if simulate.off(span.weights[name], share)
    ]
    if faults:
        raise UserError(
            f"what the trainer can do is too far from the mixture (at most {simulate.RELATIVE:.1%} of a share, or "
            f"{simulate.ABSOLUTE:g}):\n"
            + "\n".join(faults)
            + f"\n{remedy or 'raise the small shares: `mixtures export ... --min-share`'}"
        )


def _checked_caps(job: Job, form: Format, total: Mapping[str, float]) -> list[str]:
    """Return notes on domains that are read more often than their cap and may be (on_exhausted: repeat).

    Raises UserError for the domains that may not.
    """
    over = [domain for domain in job.mixture.domains if simulate.over_cap(domain, total[domain.name])]
    described = {
        domain.name: f"{domain.name}: {total[domain.name]:.3g} epochs, at most {domain.max_epochs:g}" for domain in over
    }
    if hard := [domain for domain in over if domain.on_exhausted != "repeat"]:
        raise UserError(
            f"with {form.name} these would be read more often than their caps allow:\n"
            + "\n".join(f"  - {described[domain.name]} (on_exhausted: {domain.on_exhausted})" for domain in hard)
            + "\nexport the mixture again with --max-epochs, which moves their shares to other domains"
        )
    return [f"over its cap, which on_exhausted: repeat allows: {described[domain.name]}" for domain in over]


def _many_epochs(total: Mapping[str, float]) -> list[str]:
    often = sorted((name for name in total if total[name] > MANY_EPOCHS), key=lambda name: -total[name])
    listed = ", ".join(f"{name} {total[name]:.3g}" for name in often[:5]) + (
        f" and {len(often) - 5} more" if len(often) > 5 else ""
    )
    return [f"more than {MANY_EPOCHS:g} epochs: {listed}; repeated text teaches less"] if often else []
