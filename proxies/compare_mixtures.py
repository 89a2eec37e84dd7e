"""From what a comparison's settings say of a mixture to the Mixture that its base models train on."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mixtures import Mixture, fixed
from mixtures.errors import UserError
from mixtures.export import export_mixture
from mixtures.records import Domain
from mixtures.run import CorpusRecord, read_run
from mixtures.shares import fixed_mixture, read_shares
from proxies.compare_settings import CompareSettings, Contender


def make_mixture(settings: CompareSettings, name: str, record: dict[str, Any]) -> Mixture:
    """The mixture `name` over the tokens of a base model; a learned one must be learned by then.

    `record`: what the comparison's corpus.json holds. Raises UserError, naming the mixture, for shares, files and runs that do
    not fit the corpus.
    """
    contender = settings.mixtures[name]
    try:
        if contender.learn or contender.run:
            path = Path(contender.run or settings.run_of(name).run_dir)
            mixture = export_mixture([path], average=contender.average, token_budget=settings.base_tokens)
            _require_fitting(settings, path, mixture, CorpusRecord.model_validate(record))
            return mixture
        corpus = CorpusRecord.model_validate(record)
        domains = domains_of(corpus)
        shares = _shares(contender, {domain.name: domain.unique_tokens for domain in domains}, settings.base_tokens)
        method = contender.fixed or f"file {Path(contender.file).name}"
        return fixed_mixture(shares, tokenizer=corpus.tokenizer, domains=domains, total_tokens=settings.base_tokens, method=method)
    except UserError as error:
        raise UserError(f"mixtures.{name}: {error}") from error


def domains_of(corpus: CorpusRecord) -> tuple[Domain, ...]:
    """The training domains of a corpus record as a mixture names them."""
    return tuple(
        Domain(
            name=domain.name,
            unique_tokens=domain.tokens,
            unique_documents=domain.documents,
            complete=domain.complete,
            fingerprint=domain.fingerprint,
            sources=domain.sources,
        )
        for domain in corpus.domains
        if domain.role == "domain"
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


def _require_fitting(settings: CompareSettings, path: Path, mixture: Mixture, corpus: CorpusRecord) -> None:
    """A learned mixture speaks of this comparison's domains, text and tokenizer, and was not made from its held-out rows."""
    if faults := list(_misfits(mixture, corpus)):
        raise UserError(
            f"{path} was learned on another corpus than this comparison's:\n"
            + "\n".join(f"  - {fault}" for fault in faults)
            + "\ngive a run on the same domains, text and tokenizer, or a comparison on that run's corpus"
        )
    config = read_run(path).config
    kept = config.train.get("evaluate_rows", 0)
    if config.update.get("held_out") and kept < settings.train.evaluate_rows:
        raise UserError(
            f"{path} learned from held-out rows, with train.evaluate_rows {kept} kept from it, and the base models are evaluated on "
            f"{settings.train.evaluate_rows}; lower train.evaluate_rows to {kept}, or learn with it at {settings.train.evaluate_rows}"
        )


def _misfits(mixture: Mixture, corpus: CorpusRecord) -> Iterator[str]:
    theirs, ours = {domain.name: domain for domain in mixture.domains}, {domain.name: domain for domain in domains_of(corpus)}
    if theirs.keys() != ours.keys():
        yield f"domains only there: {', '.join(name for name in theirs if name not in ours) or 'none'}"
        yield f"domains only here: {', '.join(name for name in ours if name not in theirs) or 'none'}"
    if mixture.tokenizer.fingerprint != corpus.tokenizer.fingerprint:
        yield (
            f"tokenizer {mixture.tokenizer.name} ({mixture.tokenizer.fingerprint}) there, {corpus.tokenizer.name} "
            f"({corpus.tokenizer.fingerprint}) here"
        )
    elif changed := [name for name in theirs if name in ours and theirs[name].fingerprint != ours[name].fingerprint]:
        yield f"the text of {', '.join(changed)} is not the same"
