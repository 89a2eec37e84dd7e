"""SampleRule: from the scores of a run to a sample policy, with its manifest, on every domain."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from pydantic import Field, ValidationError, model_validator

from mixtures.errors import UserError, quoted
from mixtures.files import list_faults, sha256_file
from mixtures.samples.scores import Scores, scores_path
from mixtures.samples.weights import (
    RULES,
    Direction,
    Transform,
    cap_fault,
    drop_fault,
    keep_mask,
    linear_upper,
    ranks,
    shuffled,
    softmax_weights,
    temperature_fault,
)
from mixtures.schedule.check import written_checks
from mixtures.schedule.manifest import Manifest, multiplicities, store_manifest
from mixtures.schedule.mixture import Mixture
from mixtures.schedule.records import Count, Domain, Input, Provenance, Record, SamplePolicy

LOSS = "nll_mean"  # the score that linear_upper uses
# settings where no score is named: the ones that did best in the measurements of docs/samples.md
MEASURED = {
    "score": "word_embedding",
    "transform": "log",
    "cap": 4.0,
}


class SampleRule(Record):
    """How the scores of a domain's documents become their weights; the same for every domain."""

    rule: Literal["softmax", "filter", "multiplicity", "linear_upper"] = Field(
        description="softmax: weights from the score; multiplicity: the same weights as whole numbers; filter: drop "
        "documents; linear_upper: weights from the loss alone"
    )
    score: str | None = Field(
        default=None,
        description=f"a column of the run's scores; left out: {MEASURED} (softmax, multiplicity), {LOSS} "
        f"(linear_upper)",
    )
    direction: Direction = Field(
        default="inverse", description="give larger weights to documents with high scores (direct) or low (inverse)"
    )
    temperature: float = Field(default=1.0, description="multiplies the z-scores: larger is sharper")
    cap: float | None = Field(default=None, description="largest weight; null: none")
    transform: Transform = Field(
        default="none", description="change of the scores before the z-score inside the domain"
    )
    drop_top: float = Field(default=0.0, description="share of a domain's scored tokens to drop, highest scores first")
    drop_bottom: float = Field(
        default=0.0, description="share of a domain's scored tokens to drop, lowest scores first"
    )
    shuffle: bool = Field(default=False, description="first deal the scores out to the documents at random: a control")
    seed: Count = Field(default=0, description="decides the shuffle, and which multiplicities are rounded up")

    @model_validator(mode="before")
    @classmethod
    def _as_measured(cls, given: Any) -> Any:
        """Fill in the settings of MEASURED for softmax and multiplicity where no score is named."""
        if isinstance(given, dict) and given.get("rule") in ("softmax", "multiplicity") and given.get("score") is None:
            return {**MEASURED, **{name: value for name, value in given.items() if name != "score"}}
        return given

    @model_validator(mode="after")
    def _sensible(self) -> "SampleRule":
        """Raise ValueError listing every fault of the settings."""
        faults = [temperature_fault(self.temperature), cap_fault(self.cap), drop_fault(self.drop_top, self.drop_bottom)]
        for name in [name for _, settings in RULES.values() for name in settings]:
            if name not in RULES[self.rule][1] and getattr(self, name) != type(self).model_fields[name].default:
                faults.append(
                    f"{name} does nothing for the rule {self.rule}, which has {', '.join(RULES[self.rule][1])}; "
                    f"leave it out"
                )
        if self.rule == "filter" and self.drop_top == self.drop_bottom == 0:
            faults.append("a filter that drops nothing; give drop_top, drop_bottom or both")
        if faults := list(dict.fromkeys(filter(None, faults))):
            raise ValueError("\n".join(faults))
        return self

    @property
    def mode(self) -> Literal["filter", "multiplicity", "sampling_weight"]:
        """Return the mode of the sample policy that the rule makes."""
        return RULES[self.rule][0]  # type: ignore[return-value]

    @property
    def column(self) -> str | None:
        """Return the name of the score; None where a score must be named but is not."""
        return LOSS if self.score is None and self.rule == "linear_upper" else self.score

    def settings(self) -> dict[str, Any]:
        """Return all settings that decide the weights, ready for JSON; also those left at their default."""
        chance = (
            {"shuffle": self.shuffle, "seed": self.seed}
            if self.shuffle
            else {"seed": self.seed}
            if self.rule == "multiplicity"
            else {}
        )
        return {
            "rule": self.rule,
            "score": self.column,
            **{name: getattr(self, name) for name in RULES[self.rule][1]},
            **chance,
        }


def make_rule(**settings: Any) -> SampleRule:
    """Return the rule of these settings. Raises UserError listing every fault of the settings."""
    try:
        return SampleRule.model_validate(settings)
    except ValidationError as error:
        raise UserError("these settings of the sample weights are wrong:\n" + "\n".join(list_faults(error))) from error


def rule_weights(rule: SampleRule, frame: pd.DataFrame) -> np.ndarray:
    """Return weights (S,) of one domain's documents, the rows of `frame`.

    frame: columns domain, document, tokens and the rule's score. The token-weighted mean of the weights is 1; they are
    0 or 1 for a filter, and whole numbers with about this mean for multiplicity. Raises UserError naming the document
    for a score that is not finite, or that is not positive although the rule takes its logarithm.
    """
    tokens, scores = frame["tokens"].to_numpy(), frame[rule.column].to_numpy(dtype=np.float64)
    if len(frame) == 0:
        return np.ones(0)
    _require(np.isfinite(scores), frame, rule, "score the run again (proxies.score), or use another score")
    name = frame["domain"].iloc[0]
    seed = [rule.seed, *name.encode()]
    if rule.transform == "log":
        _require(scores > 0, frame, rule, "there is no logarithm of it; use the transform rank or none")
        scores = np.log(scores)
    elif rule.transform == "rank":
        scores = ranks(scores)
    if rule.shuffle:
        scores = shuffled(scores, seed=seed)
    if rule.rule == "filter":
        return keep_mask(scores, tokens, drop_top=rule.drop_top, drop_bottom=rule.drop_bottom).astype(np.float64)
    if rule.rule == "linear_upper":
        return linear_upper(scores, tokens, r=1 / rule.temperature)
    weights = softmax_weights(scores, tokens, temperature=rule.temperature, direction=rule.direction, cap=rule.cap)
    if rule.rule == "multiplicity":
        return multiplicities(weights, offset=np.random.default_rng(seed).random()).astype(np.float64)
    return weights


def attach_samples(mixture: Mixture, scores: Scores, rule: SampleRule, directory: str | Path) -> Mixture:
    """Return the mixture with the rule's sample policy on every domain; the weights of the domains stay.

    The manifests are written into `directory`, and the mixture's file belongs beside that directory. Raises UserError
    as `sample_domains`, and where a domain would exceed its cap because the rule leaves less of it to read.
    """
    domains = sample_domains(mixture.domains, scores, rule, directory)
    content = {name: getattr(mixture, name) for name in type(mixture).model_fields if name not in ("id", "checks")}
    content |= {"domains": domains, "provenance": with_samples(mixture.provenance, scores, rule)}
    expected = Mixture(**content).compute_expected()
    over = [
        f"{domain.name} {row.epochs:,.4g} epochs of {domain.pass_tokens:,} tokens, at most {domain.max_epochs:g}"
        for domain, row in zip(domains, expected, strict=True)
        if domain.over_cap(row.epochs)
    ]
    if over:
        raise UserError(
            f"with these samples the mixture exceeds its caps: {'; '.join(over)}; export it again with --samples and "
            f"--max-epochs"
        )
    content["expected"] = expected
    written = tuple(written_checks(Mixture(**content)))
    kept = tuple(check for check in mixture.checks if check.id not in {check.id for check in written})
    return Mixture(**content, checks=(*written, *kept)).placed(Path(directory).absolute().parent)


def with_samples(provenance: Provenance, scores: Scores, rule: SampleRule) -> Provenance:
    """Return the provenance with the run's scores (and the hashes of their files) and the rule added."""
    name, place = scores.run_dir.resolve().name, scores_path(scores.run_dir)
    files = [place / "meta.json", *sorted(place.glob("part-*.parquet"))]
    inputs = [Input(uri=f"{name}/scores/{path.name}", sha256=sha256_file(path)) for path in files]
    proxy = {**provenance.proxy, "samples": {"scores": f"{name}/scores", **rule.settings()}}
    return provenance.model_copy(update={"proxy": proxy, "inputs": (*provenance.inputs, *inputs)})


def sample_domains(
    domains: Sequence[Domain], scores: Scores, rule: SampleRule, directory: str | Path
) -> tuple[Domain, ...]:
    """Return the domains with the rule's sample policy; their manifests are written into `directory`.

    One domain's scores are in memory at a time. A manifest's name ends in its hash, so no manifest is replaced while an
    older mixture.json still names it. Raises UserError listing every fault: no scores, an unknown score, scores of
    another text, scores without a value, and a domain that is left with less than one row.
    """
    _require_fitting(domains, scores, rule)
    sampled, faults = [], []
    for domain in domains:
        try:
            sampled.append(_sampled(domain, scores, rule, Path(directory)))
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n".join(faults))
    return tuple(sampled)


def _require(fine: np.ndarray, frame: pd.DataFrame, rule: SampleRule, remedy: str) -> None:
    """Raise UserError naming the first document where `fine` (S,) is False."""
    if not fine.all():
        first = frame.iloc[int(np.argmin(fine))]
        more = f", and {len(fine) - int(fine.sum()) - 1:,} more of its documents" if fine.sum() < len(fine) - 1 else ""
        raise UserError(
            f"{rule.column} of document {first['document']} of {first['domain']} is {first[rule.column]}{more}; "
            f"{remedy}"
        )


def _require_fitting(domains: Sequence[Domain], scores: Scores, rule: SampleRule) -> None:
    """Raise UserError where the scores lack the rule's column or are of another text than the domains."""
    allowed = ", ".join(scores.columns)
    if rule.column not in scores.columns:
        fault = (
            f"{scores.run_dir} has no score {quoted(rule.column)}"
            if rule.column
            else f"the rule {rule.rule} needs a score"
        )
        raise UserError(f"{fault}; give one of {allowed} (--score), or make more scores with proxies.score")
    faults = []
    for domain in domains:
        about = scores.meta.domains.get(domain.name)
        if about is None:
            faults.append(f"{domain.name}: not scored; the scores are of {', '.join(scores.domains)}")
        elif about.tokens != domain.unique_tokens:
            faults.append(
                f"{domain.name}: scored in a text of {about.tokens:,} tokens, the mixture's has "
                f"{domain.unique_tokens:,}"
            )
        elif None not in (about.fingerprint, domain.fingerprint) and about.fingerprint != domain.fingerprint:
            faults.append(
                f"{domain.name}: scored in the text {about.fingerprint}, the mixture's is {domain.fingerprint}"
            )
    if faults:
        raise UserError(
            f"the scores of {scores.run_dir} are of another text than the mixture's:\n"
            + "\n".join(f"  - {fault}" for fault in faults)
            + "\n"
            "score the run that read this text; weights of documents cannot be combined with --unique-tokens, which "
            "means other documents than the scored ones"
        )


def _sampled(domain: Domain, scores: Scores, rule: SampleRule, directory: Path) -> Domain:
    """Write the domain's manifest; return the domain with its sample policy."""
    frame = scores.frame(domain.name, ["domain", "document", "start", "tokens", str(rule.column)])
    weights = rule_weights(rule, frame)
    tokens = frame["tokens"].to_numpy(dtype=np.int64)
    manifest = Manifest(
        domain=domain.name,
        fingerprint=domain.fingerprint,
        domain_tokens=domain.unique_tokens,
        mode=rule.mode,
        documents=frame["document"].tolist(),
        start=frame["start"].to_numpy(dtype=np.int64),
        tokens=tokens,
        weight=weights,
        facts={"rule": rule.settings()},
    )
    least = scores.meta.row_tokens
    if manifest.pass_tokens < least:
        raise UserError(
            f"{rule.rule} leaves {manifest.pass_tokens:,} of {domain.unique_tokens:,} tokens of {domain.name}, less "
            f"than a row of {least}; keep more, or leave the domain out of the mixture"
        )
    path, digest = store_manifest(directory, manifest)
    documents = scores.meta.unit == "document"
    policy = SamplePolicy(
        mode=rule.mode,
        manifest_uri=f"{directory.name}/{path.name}",
        manifest_sha256=digest,
        key="document_id" if documents else "sequence_index",
        kept_documents=manifest.kept_documents(domain.unique_documents) if documents else None,
        kept_tokens=manifest.pass_tokens,
        rule=rule.rule,
        score=rule.column,
        scored_tokens=int(tokens.sum()),
        effective_sample_size=manifest.effective_sample_size,
    )
    return domain.model_copy(update={"sample_policy": policy})
