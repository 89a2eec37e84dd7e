"""The records of a run that a report needs, and the verdict on it in words."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from mixtures.diagnosis.diagnosis import Diagnosis, diagnose, read_diagnosis
from mixtures.diagnosis.matrix import HelpMatrix, help_matrix
from mixtures.export import export_mixture
from mixtures.run.run import RunRecord
from mixtures.schedule.mixture import Mixture, learned_weights
from mixtures.schedule.show import constraint_text, departure_text, source_text
from mixtures.text import capital, counted

MOVED = 0.1  # without intervals, a share within 10 % of its prior counts as unmoved
NAMED = 5  # most domains named in a sentence


@dataclass(frozen=True)
class Evidence:
    """The records of a run: its mixture, its diagnosis, and its cosine matrix (None if it recorded no gram)."""

    run: RunRecord
    mixture: Mixture
    diagnosis: Diagnosis
    matrix: HelpMatrix | None

    @property
    def prior(self) -> dict[str, float]:
        """{domain: share} of the prior, for the domains that the run trained on one by one."""
        return dict(zip(self.run.trajectory.domains, self.run.prior.tolist(), strict=True))

    @property
    def learned(self) -> dict[str, float]:
        """{domain: learned share}, averaged over the whole schedule, before any bounds."""
        stages, spans = learned_weights(self.mixture), self.mixture.stage_tokens()
        if not stages:
            return self.mixture.average_weights()
        return {name: float(np.average([stage[name] for stage in stages], weights=spans)) for name in stages[0]}

    @property
    def intervals(self) -> dict[str, tuple[float, float]]:
        """{domain: 95 % interval} of a mixture with one stage; empty if it has none, or has several stages."""
        stages = self.mixture.stages
        return dict(stages[0].weights_ci95 or {}) if len(stages) == 1 else {}


def gather(run: RunRecord) -> Evidence:
    """Read the mixture, the diagnosis and the matrix of a run.

    Without a mixture.json, the mixture is the one that `export` would write. Without a diagnosis.json, the diagnosis is
    made now. Raises UserError for a damaged run, mixture or diagnosis.
    """
    path = run.path / "mixture.json"
    mixture = Mixture.load(path) if path.is_file() else export_mixture([run])
    diagnosis = read_diagnosis(run.path) or diagnose(run)
    return Evidence(run, mixture, diagnosis, help_matrix(run))


def verdict(found: Evidence) -> list[str]:
    """Return the verdict on a run: which domains to raise and lower, how sure that is, whether to trust the run."""
    return [_direction(found), *_held(found), *_sureness(found), _health(found.diagnosis), *_learned(found)]


def _direction(found: Evidence) -> str:
    shares, prior = found.learned, found.prior
    moved = {name: shares[name] / prior[name] for name in shares if name in prior and _departs(found, name)}
    if not moved:
        reason = (
            "no interval leaves its prior" if found.intervals else f"every share is within {MOVED * 100:.0f} % of it"
        )
        return (
            f"The run found no reason to leave the prior: {reason}. Train on the prior, or look at the diagnosis first."
        )
    up = sorted((name for name in moved if moved[name] > 1), key=lambda name: -moved[name])
    down = sorted((name for name in moved if moved[name] < 1), key=lambda name: moved[name])
    parts = [f"{word} {_listed(names, shares, moved)}" for word, names in (("more of", up), ("less of", down)) if names]
    return f"The run proposes {'; '.join(parts)}."


def _departs(found: Evidence, name: str) -> bool:
    """Say whether the interval excludes the prior; without intervals, whether the share differs by more than MOVED."""
    share, prior = found.learned[name], found.prior[name]
    if name in found.intervals:
        low, high = found.intervals[name]
        return not low <= prior <= high and not np.isclose(share, prior)
    return bool(share > (1 + MOVED) * prior or share < (1 - MOVED) * prior)


def _listed(names: list[str], shares: dict[str, float], moved: dict[str, float]) -> str:
    """List domains with their shares, such as `wiki (18.0 %, 1.98 times its prior), ... and 3 more`."""
    words = [f"{name} ({percent_share(shares[name])}, {moved[name]:.2f} times its prior)" for name in names[:NAMED]]
    return ", ".join(words) + (f" and {len(names) - NAMED} more" if len(names) > NAMED else "")


def _held(found: Evidence) -> Iterator[str]:
    """Yield one sentence per set of bounds that the mixture keeps."""
    for constraint in found.mixture.provenance.constraints:
        yield f"The mixture is held to bounds: {constraint_text(constraint)}."


def _sureness(found: Evidence) -> Iterator[str]:
    record, names = found.mixture.provenance.uncertainty, [name for name in found.learned if name in found.prior]
    if record is None:
        yield (
            "There are no intervals: how much of this another seed would change is not known. Export several seeds "
            "together."
        )
        return
    yield f"Intervals: {source_text(record)}. {capital(departure_text(record))}."
    apart = sum(_departs(found, name) for name in names)
    if found.intervals and apart:
        sentence = (
            f"{apart} of {counted(len(names), 'domain')} differ from the prior by more than their 95 % intervals "
            f"allow for"
        )
        yield sentence + ("; the others may as well keep the prior." if apart < len(names) else ".")


def _health(diagnosis: Diagnosis) -> str:
    looked = sum(finding.status != "unknown" for finding in diagnosis.findings)
    if not diagnosis.warnings:
        return f"The diagnosis looked at {counted(looked, 'thing')} and found nothing to warn of."
    return f"The diagnosis warns of {len(diagnosis.warnings)} of {counted(looked, 'thing')}: " + " ".join(
        finding.sentence for finding in diagnosis.warnings
    )


def _learned(found: Evidence) -> Iterator[str]:
    start, end = (held_out(found.run.evaluation, which) for which in ("min", "max"))
    names = [name for name in found.run.trajectory.domains if name in start]
    if names and not np.isclose(found.run.evaluation["step"].min(), found.run.evaluation["step"].max()):
        first, last = (np.mean([losses[name] for name in names]) for losses in (start, end))
        yield f"The proxy's held-out loss, mean over the domains, went from {first:.2f} to {last:.2f} nats per token."


def held_out(evaluation: pd.DataFrame, which: str, column: str = "loss") -> dict[str, float]:
    """Return {domain: value of `column`} at the first ("min") or last ("max") evaluation."""
    if not len(evaluation):
        return {}
    chosen = evaluation[evaluation["step"] == getattr(evaluation["step"], which)()]
    return dict(zip(chosen["domain"], chosen[column], strict=True))


def percent_share(share: float) -> str:
    """Return a share as text, such as `18.0 %`."""
    return f"{100 * share:.1f} %"
