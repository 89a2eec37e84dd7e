"""The mixtures of a comparison: from the settings of each to the Mixture that its base models train on."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mixtures import Mixture
from mixtures.errors import UserError
from mixtures.export import export_mixture
from mixtures.files import read_json
from mixtures.imports.tables import read_shares
from mixtures.run.run import CorpusRecord, RunRecord, read_run
from mixtures.samples.rule import attach_samples
from mixtures.samples.scores import read_scores
from mixtures.schedule import shares as fixed
from mixtures.schedule.mixture import KIND
from mixtures.schedule.records import Domain
from mixtures.schedule.shares import fixed_mixture
from proxies.comparison.settings import CompareSettings, Contender, ContenderSamples


def read_learned(settings: CompareSettings, name: str) -> list[RunRecord]:
    """Read the records of the proxy runs that learned the mixture `name`; none for a mixture that no run learns.

    Raises UserError, which names the mixture, for a run that is missing or damaged.
    """
    contender = settings.mixtures[name]
    places = [run.run_dir for run in settings.runs_of(name)] if contender.learn else [contender.run]
    try:
        return [read_run(place) for place in places if place]
    except UserError as error:
        raise UserError(f"mixtures.{name}: {error}") from error


def make_mixture(
    settings: CompareSettings, name: str, record: dict[str, Any], runs: Sequence[RunRecord], *, folder: Path
) -> Mixture:
    """Make the mixture `name` for the number of tokens that a base model trains on.

    record:  content of the comparison's corpus.json.
    runs:    records of the proxy runs that learned the mixture (`read_learned`); none for a mixture that no run learns.
    folder:  manifests of sample weights are written into its subdirectory NAME.samples.

    Raises UserError, which names the mixture, for shares, files, runs and scores that do not fit the corpus.
    """
    contender, corpus = settings.mixtures[name], CorpusRecord.model_validate(record)
    try:
        if contender.file and not contender.samples:
            _require_shares_alone(contender.file)
        if runs:
            mixture = export_mixture(list(runs), average=contender.average, token_budget=settings.base_tokens)
            for run in runs:
                _require_fitting(settings, run, mixture, corpus)
        else:
            mixture = _fixed(contender, corpus, settings.base_tokens)
        return _with_samples(contender.samples, mixture, folder / f"{name}.samples")
    except UserError as error:
        raise UserError(f"mixtures.{name}: {error}") from error


def require_scores(settings: CompareSettings, name: str, record: dict[str, Any], *, folder: Path) -> None:
    """Check, before a mixture is learned, that the scores for its sample weights can be used.

    Raises the UserError that `make_mixture` would raise after learning.
    """
    uniform = _fixed(Contender(fixed="uniform"), CorpusRecord.model_validate(record), settings.base_tokens)
    try:
        _with_samples(settings.mixtures[name].samples, uniform, folder / f"{name}.samples")
    except UserError as error:
        raise UserError(f"mixtures.{name}: {error}") from error


def sample_notes(settings: CompareSettings, mixtures: Mapping[str, Mixture]) -> Iterator[str]:
    """Yield the summary's notes on sample weights: one per mixture, with its rule and its effective sample sizes."""
    for name, samples in [(name, settings.mixtures[name].samples) for name in mixtures]:
        if samples is None:
            continue
        policies = {domain.name: domain.sample_policy for domain in mixtures[name].domains if domain.sample_policy}
        sizes = {domain: policy.effective_sample_size or 1.0 for domain, policy in policies.items()}
        low, high = min(sizes, key=sizes.__getitem__), max(sizes, key=sizes.__getitem__)
        yield (
            f"Samples of {name}: {samples.rule} by {samples.column}{', shuffled' if samples.shuffle else ''}; "
            f"effective sample size {sizes[low]:.0%} of the tokens ({low}) to {sizes[high]:.0%} ({high}). Its cost "
            "does not include scoring."
        )


def domains_of(corpus: CorpusRecord) -> tuple[Domain, ...]:
    """Return the training domains of a corpus record, as entries of a mixture."""
    return tuple(domain.as_domain() for domain in corpus.domains if domain.role == "domain")


def _fixed(contender: Contender, corpus: CorpusRecord, budget: int) -> Mixture:
    domains = domains_of(corpus)
    shares = _shares(contender, {domain.name: domain.unique_tokens for domain in domains}, budget)
    method = contender.fixed or f"file {Path(contender.file).name}"
    return fixed_mixture(shares, tokenizer=corpus.tokenizer, domains=domains, total_tokens=budget, method=method)


def _with_samples(samples: ContenderSamples | None, mixture: Mixture, directory: Path) -> Mixture:
    return (
        mixture
        if samples is None
        else attach_samples(mixture, read_scores(samples.scores), samples.rule_alone, directory)
    )


def _require_shares_alone(path: str) -> None:
    """Refuse a mixture.json with sample weights where only its shares would be read."""
    record = read_json(path) if path.endswith(".json") else None
    if not isinstance(record, dict) or record.get("kind") != KIND:
        return
    policies = {domain.name: domain.sample_policy for domain in Mixture.from_record(record, where=path).domains}
    if sampled := [name for name, policy in policies.items() if policy and policy.mode != "none"]:
        raise UserError(
            f"{path} has sample weights for {', '.join(sampled)}, but `file` reads the shares only; give `samples` as "
            f"well, with the rule and the scored run, or give a file of {{name: share}}"
        )


def _shares(contender: Contender, tokens: dict[str, int], budget: int) -> dict[str, float]:
    if contender.file:
        return read_shares(contender.file, names=list(tokens), row=contender.row)
    if contender.fixed == "temperature":
        assert contender.temperature is not None
        return fixed.temperature(tokens, temperature=contender.temperature)
    if contender.fixed == "unimax":
        assert contender.max_epochs is not None
        return fixed.unimax(tokens, budget=budget, max_epochs=contender.max_epochs)
    return fixed.uniform(tokens) if contender.fixed == "uniform" else fixed.natural(tokens)


def _require_fitting(settings: CompareSettings, run: RunRecord, mixture: Mixture, corpus: CorpusRecord) -> None:
    """Refuse a learned mixture of other domains, text or tokenizer, or one learned from rows evaluated here."""
    if faults := list(_misfits(mixture, corpus)):
        raise UserError(
            f"{run.path} was learned on another corpus than this comparison's:\n"
            + "\n".join(f"  - {fault}" for fault in faults)
            + "\ngive a run on the same domains, text and tokenizer, or compare on that run's corpus"
        )
    config = run.config
    kept = config.train.get("evaluate_rows", 0)
    if config.update.get("held_out") and kept < settings.train.evaluate_rows:
        raise UserError(
            f"{run.path} learned from held-out rows and left out {kept} of them per domain (its train.evaluate_rows), "
            f"but the base models are evaluated on {settings.train.evaluate_rows}; lower train.evaluate_rows to "
            f"{kept}, or learn again with train.evaluate_rows {settings.train.evaluate_rows}"
        )


def _misfits(mixture: Mixture, corpus: CorpusRecord) -> Iterator[str]:
    theirs, ours = (
        {domain.name: domain for domain in mixture.domains},
        {domain.name: domain for domain in domains_of(corpus)},
    )
    if theirs.keys() != ours.keys():
        yield f"domains only in the run: {', '.join(name for name in theirs if name not in ours) or 'none'}"
        yield f"domains only in the comparison: {', '.join(name for name in ours if name not in theirs) or 'none'}"
    if mixture.tokenizer.fingerprint != corpus.tokenizer.fingerprint:
        yield (
            f"tokenizer {mixture.tokenizer.name} ({mixture.tokenizer.fingerprint}) in the run, "
            f"{corpus.tokenizer.name} ({corpus.tokenizer.fingerprint}) in the comparison"
        )
    elif changed := [
        name for name in theirs if name in ours and theirs[name].fingerprint not in (None, ours[name].fingerprint)
    ]:
        yield f"the text of {', '.join(changed)} is not the same"
