"""Checks of a mixture.json: everything derived in the file is computed again and compared with what is recorded."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from mixtures.errors import UserError
from mixtures.files import read_json
from mixtures.schedule.bounds import closest
from mixtures.schedule.bounds import constraint as constraint_of
from mixtures.schedule.manifest import open_manifest
from mixtures.schedule.mixture import KNOWN_VERSIONS, TOLERANCE, Mixture, id_fault
from mixtures.schedule.records import MANY_EPOCHS, Check, Constraint, Domain, Stage, Uncertainty
from mixtures.schedule.uncertainty import shrink_factor, shrunk

AGREEMENT = 1e-6  # how far two computations of the closest weights may be apart


def check(path: str | Path) -> list[Check]:
    """Return every check of the file `path`: `fail` where a recorded value differs from the value computed again.

    A failed check names both values. Raises UserError listing the faults of a file that is no readable mixture, as
    `Mixture.load` does.
    """
    record = read_json(path)
    recorded = record.get("id") if isinstance(record, dict) else None
    content = {key: value for key, value in record.items() if key != "id"} if isinstance(record, dict) else record
    mixture = Mixture.from_record(content, where=str(path)).placed(Path(path).parent)
    derived = [_version(mixture), _id(mixture, recorded), _sums(mixture), _expected(mixture)]
    return [
        *derived,
        *_caps(mixture),
        *_constraints(mixture),
        *_intervals(mixture),
        *_samples(mixture),
        *_recorded(mixture),
    ]


def written_checks(mixture: Mixture) -> Iterator[Check]:
    """Yield the checks that the exporter writes into every file: sums of weights, names of domains, epochs.

    Building the mixture has already proved the first two.
    """
    yield Check(id="weights_sum", status="pass", detail="weights sum to 1 in every stage")
    yield Check(id="domains_named", status="pass", detail=f"every stage names all {len(mixture.domains)} domains")
    often = sorted(
        (row for row in mixture.compute_expected() if row.epochs > MANY_EPOCHS * (1 + 1e-9)),
        key=lambda row: -row.epochs,
    )
    detail = ", ".join(f"{row.domain} {row.epochs:,.1f}" for row in often[:5])
    more = f" and {len(often) - 5} more domains" if len(often) > 5 else ""
    detail = f"epochs over {MANY_EPOCHS:g}: {detail}{more}" if often else f"no domain over {MANY_EPOCHS:g} epochs"
    yield Check(id="epochs", status="warn" if often else "pass", detail=detail)


def check_text(path: str | Path) -> str:
    """Return the checks as text, one per line. Raises UserError with the same text where one of them failed."""
    checks = check(path)
    text = "\n".join(f"{result.status:<5}{result.id}: {result.detail}" for result in checks)
    if failed := [result.id for result in checks if result.status == "fail"]:
        raise UserError(f"{path} does not agree with what it records ({', '.join(failed)}):\n{text}")
    return text


def _version(mixture: Mixture) -> Check:
    """Return a passed check that names the schema version: loading the mixture refused any other."""
    detail = f"{mixture.schema_version}; known: {', '.join(KNOWN_VERSIONS)}"
    return Check(id="schema_version", status="pass", detail=detail)


def _id(mixture: Mixture, recorded: str | None) -> Check:
    """Compare the recorded id with the hash of the content."""
    if recorded is None:
        return Check(id="id", status="warn", detail=f"none recorded; the content hashes to {mixture.id}")
    if recorded == mixture.id:
        return Check(id="id", status="pass", detail=mixture.id)
    return Check(id="id", status="fail", detail=id_fault(recorded, mixture.id))


def _sums(mixture: Mixture) -> Check:
    """Say how far the sums of weights are from 1; building the mixture refused anything above its tolerance."""
    worst = max(abs(math.fsum(stage.weights.values()) - 1) for stage in mixture.stages)
    detail = f"{len(mixture.stages)} stage(s), {len(mixture.domains)} domains, furthest from 1 by {worst:.1e}"
    return Check(id="weights_sum", status="pass", detail=detail)


def _expected(mixture: Mixture) -> Check:
    """Compare recorded tokens and epochs with those that stages and domains imply."""
    if not mixture.expected:
        return Check(id="expected", status="warn", detail="no expected tokens recorded")
    drifted = list(_drift(mixture))
    detail = "; ".join(drifted) if drifted else f"tokens and epochs of {len(mixture.domains)} domains as computed"
    return Check(id="expected", status="fail" if drifted else "pass", detail=detail)


def _drift(mixture: Mixture) -> Iterator[str]:
    """Yield one message per domain that is in only one of the two lists, and per number that differs."""
    recorded = {row.domain: row for row in mixture.expected}
    computed = {row.domain: row for row in mixture.compute_expected()}
    for name in sorted(recorded.keys() ^ computed.keys()):
        yield f"{name} is {'not recorded' if name in computed else 'recorded but no domain'}"
    for name in [name for name in computed if name in recorded]:
        for field in ("tokens", "epochs"):
            was, now = getattr(recorded[name], field), getattr(computed[name], field)
            if not math.isclose(was, now, rel_tol=1e-9, abs_tol=1e-9):
                yield f"{name} recorded {was:,.6g} {field}, computed {now:,.6g}"


def _caps(mixture: Mixture) -> Iterator[Check]:
    """Compare the epochs of the whole schedule with the cap of every domain that has one."""
    capped = [
        (domain, row)
        for domain, row in zip(mixture.domains, mixture.compute_expected(), strict=True)
        if domain.max_epochs is not None
    ]
    over = [
        f"{domain.name} {row.epochs:,.6g} epochs, at most {domain.max_epochs:g}"
        for domain, row in capped
        if domain.over_cap(row.epochs)
    ]
    if capped:
        used_up = sum(domain.held_at_cap(row.epochs) for domain, row in capped)
        detail = "; ".join(over) if over else f"{len(capped)} domain(s) within their caps, {used_up} of them at the cap"
        yield Check(id="caps", status="fail" if over else "pass", detail=detail)


def _constraints(mixture: Mixture) -> Iterator[Check]:
    """Check that the weights are the closest to the learned ones that keep the bounds asked for at export."""
    for constraint in mixture.provenance.constraints:
        drifted = [*_bound_drift(mixture, constraint)] or [*_weight_drift(mixture, constraint)]
        detail = (
            "; ".join(drifted)
            if drifted
            else f"weights are the closest to the learned ones, {constraint.moved:.2%} of the tokens moved"
        )
        yield Check(id="constraints", status="fail" if drifted else "pass", detail=detail)


def _bound_drift(mixture: Mixture, constraint: Constraint) -> Iterator[str]:
    """Compare the bounds asked for at export with the caps of the domains and with the weights of every stage."""
    for domain in mixture.domains:
        if (asked := constraint.cap(domain.name)) != domain.max_epochs:
            yield f"{domain.name} was exported with max_epochs {asked or 'none'}, it has {domain.max_epochs or 'none'}"
        for stage in mixture.stages:
            if stage.weights[domain.name] < (least := constraint.least(domain.name)) - TOLERANCE:
                yield (
                    f"{domain.name} has {stage.weights[domain.name]:.6g} of stage {stage.name}, at least {least:g} "
                    f"was asked for"
                )


def _weight_drift(mixture: Mixture, constraint: Constraint) -> Iterator[str]:
    """Compare recorded weights and distances with those computed from the learned weights."""
    names, spans = [domain.name for domain in mixture.domains], mixture.stage_tokens()
    recorded = np.array([[stage.weights[name] for name in names] for stage in mixture.stages])
    learned = (
        np.array([[weights[name] for name in names] for weights in constraint.learned])
        if constraint.learned
        else recorded
    )
    try:
        weights = closest(
            learned, spans, domains=mixture.domains, least={name: constraint.least(name) for name in names}
        )
    except UserError as error:
        yield f"no weights keep these constraints: {error}"
        return
    off = np.abs(weights - recorded)
    for stage, column in np.argwhere(off > AGREEMENT)[:5]:
        where = f"{names[column]} in stage {mixture.stages[stage].name}"
        yield (
            f"{where} recorded {recorded[stage, column]:.6g}, closest to the learned weights "
            f"{weights[stage, column]:.6g}"
        )
    now = constraint_of(weights, learned, spans, names=names, max_epochs=None, min_share=None)
    for field in ("moved", "kl"):
        was, computed = getattr(constraint, field), getattr(now, field)
        if (was is None) != (computed is None) or abs((was or 0) - (computed or 0)) > AGREEMENT:
            yield f"{field} recorded {was}, computed {computed}"


def _intervals(mixture: Mixture) -> Iterator[Check]:
    """Check that every interval contains its learned weight, and that shrinkage gives the recorded learned weights."""
    moved = [weights for constraint in mixture.provenance.constraints for weights in constraint.learned]
    learned = moved or [stage.weights for stage in mixture.stages]
    drifted = [
        line for stage, weights in zip(mixture.stages, learned, strict=True) for line in _interval_drift(stage, weights)
    ]
    record = mixture.provenance.uncertainty
    if record is not None:
        drifted += _shrinkage_drift(record, learned)
    if record is not None or any(stage.weights_ci95 is not None for stage in mixture.stages):
        detail = (
            "; ".join(drifted)
            if drifted
            else f"the intervals of {len(mixture.stages)} stage(s) contain the learned weights"
        )
        yield Check(id="intervals", status="fail" if drifted else "pass", detail=detail)


def _interval_drift(stage: Stage, weights: dict[str, float]) -> Iterator[str]:
    """Yield one message per learned weight of a stage that lies outside its interval."""
    for name, (low, high) in (stage.weights_ci95 or {}).items():
        if not (0 <= low <= high <= 1 and low - TOLERANCE <= weights[name] <= high + TOLERANCE):
            yield (
                f"{name} has learned weight {weights[name]:.6g} in stage {stage.name}, its interval is {low:.6g} "
                f"to {high:.6g}"
            )


def _shrinkage_drift(record: Uncertainty, learned: Sequence[dict[str, float]]) -> Iterator[str]:
    """Compare recorded factors with their signals, and the learned weights with those that the factors give."""
    names = list(record.prior)
    for number, mean in enumerate(record.mean):
        was, now = record.factor[number], shrink_factor(record.signal[number], record.needed[number])
        if abs(was - now) > AGREEMENT:
            yield f"factor of stage {number + 1} recorded {was:.6g}, its signal gives {now:.6g}"
        prior, shares, learned_shares = (
            np.array([weights[name] for name in names]) for weights in (record.prior, mean, learned[number])
        )
        drawn = shrunk(shares, prior=prior, factor=was)
        for column in np.flatnonzero(np.abs(drawn - learned_shares) > AGREEMENT)[:5]:
            yield (
                f"{names[column]} has learned weight {learned_shares[column]:.6g} in stage {number + 1}, shrinkage "
                f"gives {drawn[column]:.6g}"
            )


def _samples(mixture: Mixture) -> Iterator[Check]:
    """Compare the manifests with their hashes, and what the file says about them with their content."""
    sampled = [domain for domain in mixture.domains if domain.sample_policy and domain.sample_policy.mode != "none"]
    drifted = [line for domain in sampled for line in _sample_drift(domain, mixture.directory)]
    if sampled:
        detail = (
            "; ".join(drifted) if drifted else f"{len(sampled)} manifest(s) agree with the recorded hashes and numbers"
        )
        yield Check(id="samples", status="fail" if drifted else "pass", detail=detail)


def _sample_drift(domain: Domain, directory: Path | None) -> Iterator[str]:
    """Yield one message per recorded number that the domain's manifest contradicts, or why it cannot be read."""
    try:
        manifest = open_manifest(domain, directory)
    except UserError as error:
        yield str(error)
        return
    policy = domain.sample_policy
    assert policy is not None
    assert manifest is not None
    computed: dict[str, float | None] = {
        "kept_tokens": manifest.pass_tokens,
        "effective_sample_size": manifest.effective_sample_size,
    }
    computed["scored_tokens"] = int(manifest.tokens.sum())
    if policy.key == "document_id":
        computed["kept_documents"] = manifest.kept_documents(domain.unique_documents)
    for name, now in computed.items():
        was = getattr(policy, name)
        if was is not None and now is not None and not math.isclose(was, now, rel_tol=1e-9):
            yield f"{domain.name} recorded {name} {was:,.6g}, its manifest has {now:,.6g}"


def _recorded(mixture: Mixture) -> Iterator[Check]:
    """Yield the warnings and failures that the exporter wrote into the file."""
    for result in mixture.checks:
        if result.status != "pass":
            yield Check(id=f"recorded {result.id}", status=result.status, detail=result.detail)
