"""The whole way of a conversion: from a mixture to a directory with the trainer's files and their report."""

import math
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from mixtures.convert.job import Job, Output, Span, Unit
from mixtures.convert.lengths import read_manifests, read_texts, select
from mixtures.convert.paths import Places, read_paths
from mixtures.convert.report import FILE, Report, build, file_text
from mixtures.convert.sources import held_out_notes
from mixtures.convert.steps import Batches, BatchSize, batches_of, made_batches
from mixtures.convert.table import Format
from mixtures.errors import UserError, printable, quoted
from mixtures.files import atomic_dir
from mixtures.schedule.mixture import Mixture


def convert(
    mixture: Mixture | str | Path,
    *,
    to: str,
    output: str | Path,
    data: Places = "",
    sequence_length: int | None = None,
    batch_size: BatchSize | None = None,
    stages: Literal["keep", "average"] = "keep",
    document_tokens: Mapping[str, float] | None = None,
    cache: str | Path | None = None,
    max_document_tokens: int | None = None,
    packed: bool = False,
    samples: Literal["keep", "multiplicity", "drop"] = "keep",
    elsewhere: bool = False,
    **options: Any,
) -> Report:
    """Write a mixture in the syntax of a trainer into the new directory `output`; return what the trainer will do.

    mixture: the mixture or its file. to: the format (`mixtures convert --list`). data: where the data are, as a path
    with `{domain}` in it or as {domain: path or paths}. sequence_length: tokens per row. batch_size: sequences per
    step, or {first token: sequences per step}. stages: `keep` them, or write one static `average` over the tokens.
    document_tokens: {domain: mean} of trained tokens per document, after tokenizer, separators and truncation. cache:
    token cache of the proxy run; documents are measured there. max_document_tokens: where the trainer cuts a document
    off. packed: the data are rows of equal length, not documents. samples: sample weights inside domains are kept as
    they are (refused where the trainer cannot honour them), rounded to whole repetitions (`multiplicity`), or left out
    (`drop`). elsewhere: the data are on another machine; do not look for them here. options: options of the format
    (`mixtures.convert.options`), for example block_size=1024.

    Raises UserError for everything that the format or the mixture does not allow; nothing is written then.
    """
    from mixtures.convert.formats import find_format

    form, output = find_format(to), Path(output)
    form.check_options(list(options))
    if re.search(r"[\n\t]", str(output.absolute())) or printable(str(output.absolute())) != str(output.absolute()):
        raise UserError(
            f"-o {quoted(str(output))}: has control characters, which would end a command; give another name"
        )
    if output.exists():
        raise UserError(f"{output} is there already; give a directory that is not")
    plan = mixture if isinstance(mixture, Mixture) else Mixture.load(mixture)
    _check_domains(plan, form)
    spans = _spans(plan, stages)
    used = [domain.name for domain in plan.domains if any(span.weights[domain.name] > 0 for span in spans)]
    manifests = read_manifests(plan, samples=samples, honoured=form.samples, trainer=form.trainers)
    manifests = {name: manifest for name, manifest in manifests.items() if name in used}
    means = document_tokens or {}
    _check_names(means, plan)
    length = sequence_length or plan.horizon.sequence_length
    job = Job(
        mixture=plan,
        spans=spans,
        paths=read_paths(plan, data, form=form, names=used, elsewhere=elsewhere),
        texts=read_texts(plan, manifests, means=means, cache=cache, most_tokens=max_document_tokens),
        unit=options.get("unit") or _unit(form, packed=packed),
        document_limit=max_document_tokens,
        sequence_length=length,
        batches=_batches(plan, batch_size, length),
        seed=plan.sampling.seed,
        options=options,
        here=not elsewhere,
        directory=output.absolute(),
        selections={name: select(manifest, plan.domain(name)) for name, manifest in manifests.items()},
    )
    written = form.write(job)
    record = build(job, form, written, notes=list(_notes(job, form, stages=stages, samples=samples)))
    with atomic_dir(output) as directory:
        _write(written, directory)
        text = file_text(record, directory)
        (directory / FILE).write_text(text)
    return Report(record, output)


def _write(output: Output, directory: Path) -> None:
    """Write the output's files into a directory, folders included."""
    for name, content in output.files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(path)
        else:
            path.write_bytes(content.encode() if isinstance(content, str) else content)


def _spans(mixture: Mixture, stages: str) -> tuple[Span, ...]:
    """Return the stages as spans, or one span with the token-weighted average of the stages."""
    start = mixture.horizon.start_tokens
    if stages == "average" and len(mixture.stages) > 1:
        return (Span("average", 0, mixture.horizon.total_tokens, _summing_to_one(mixture.average_weights())),)
    return tuple(
        Span(
            stage.name,
            stage.start_tokens - start,
            tokens,
            _summing_to_one({d.name: stage.weights[d.name] for d in mixture.domains}),
        )
        for stage, tokens in zip(mixture.stages, mixture.stage_tokens(), strict=True)
    )


def _summing_to_one(weights: dict[str, float]) -> dict[str, float]:
    total = math.fsum(weights.values())
    return {name: weight / total for name, weight in weights.items()}


def _unit(form: Format, *, packed: bool) -> Unit:
    """Return what the trainer counts a share in.

    Raises UserError for --packed with a format that always draws documents.
    """
    if packed and not form.packable and form.unit == "document":
        raise UserError(f"--packed: {form.name} always draws documents; leave it out")
    return "sequence" if packed and form.packable else form.unit


def _batches(mixture: Mixture, size: BatchSize | None, length: int | None) -> Batches | None:
    """Return the batch sizes of --batch-size, or else those in the mixture; None where neither gives them.

    None, too, where the sequence length is not known. Raises UserError for --batch-size without a sequence length.
    """
    if size is not None and length is None:
        raise UserError("--batch-size counts sequences, and their length is not known; give --sequence-length")
    if length is None:
        return None
    if size is not None:
        return batches_of(size, sequence_length=length)
    start = mixture.horizon.start_tokens
    pieces = [(max(0, batch.from_tokens - start), batch.sequences_per_step) for batch in mixture.horizon.batch]
    past = [number for number, (begin, _) in enumerate(pieces) if begin == 0]
    return made_batches(pieces[past[-1] if past else 0 :], sequence_length=length) if pieces else None


def _check_domains(mixture: Mixture, form: Format) -> None:
    """Refuse more domains than the format can number. Raises UserError."""
    if form.most_domains is not None and len(mixture.domains) > form.most_domains:
        raise UserError(
            f"{len(mixture.domains):,} domains, {form.name} can number {form.most_domains:,} at most; merge small "
            f"domains and export again"
        )


def _check_names(means: Mapping[str, float], mixture: Mixture) -> None:
    """Refuse means of --document-tokens that are no positive number, or for no domain. Raises UserError."""
    known = [domain.name for domain in mixture.domains]
    faults = [f"{quoted(name)} is no domain; domains: {', '.join(known)}" for name in means if name not in known]
    faults += [
        f"{name}={mean:g} is no number of tokens; give one above 0"
        for name, mean in means.items()
        if not 0 < mean < math.inf
    ]
    if faults:
        raise UserError("\n".join(f"--document-tokens: {fault}" for fault in faults))


def _notes(job: Job, form: Format, *, stages: str, samples: str) -> Iterator[str]:
    """Give the notes on what the conversion itself changed."""
    if stages == "average" and len(job.mixture.stages) > 1:
        yield f"{len(job.mixture.stages)} stages became their average over the tokens; the schedule over time is lost"
    if form.zero_weights == "dropped":
        for span in job.spans:
            if zero := [name for name, weight in span.weights.items() if weight == 0]:
                yield f"stage {span.title}: {', '.join(zero)} left out, with a weight of 0"
    policies = {domain.name: domain.sample_policy for domain in job.mixture.domains if domain.sample_policy is not None}
    sampled = {name: policy.mode for name, policy in policies.items() if policy.mode != "none"}
    if sampled and samples == "drop":
        yield f"sample weights inside {', '.join(sampled)} were left out (--samples drop): all documents count alike"
    if rounded := [name for name, mode in sampled.items() if samples == "multiplicity" and mode == "sampling_weight"]:
        yield f"sample weights inside {', '.join(rounded)} were rounded to whole repetitions, the same in every epoch"
    if form.needs_data:
        yield from held_out_notes(job)
    if job.mixture.horizon.start_tokens:
        yield (
            f"steps and tokens count from the beginning of the schedule, after "
            f"{job.mixture.horizon.start_tokens:,} tokens of the run"
        )
    if job.unit == "document":
        origins = sorted({job.texts[name].origin for span in job.spans for name in span.used})
        yield f"shares of documents were computed from tokens a document by {'; '.join(origins)}"
