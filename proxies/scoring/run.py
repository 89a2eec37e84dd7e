"""A whole scoring: load the run's models and text, score the missing shards one by one, print a table at the end."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa
import torch
from accelerate import Accelerator
from tqdm import tqdm

from doge.scopes import scope_parameters
from mixtures.boundary import remedy
from mixtures.errors import UserError
from mixtures.locks import directory_lock
from mixtures.samples.scores import (
    Checkpoint,
    ScoredDomain,
    ScoresMeta,
    keep_whole_parts,
    read_meta,
    read_scores,
    scores_path,
    table_schema,
    write_complete,
    write_meta,
    write_part,
)
from mixtures.samples.text import scores_text
from mixtures.sums import read_run_id
from mixtures.text import tokens_text
from proxies.config import differences, environment
from proxies.corpus.corpus import CorpusData, prepare_everywhere
from proxies.models import parameter_count
from proxies.place import decide, make_accelerator
from proxies.preflight import require_causal, require_group, require_same_corpus
from proxies.scoring.models import choose_checkpoints, load_models
from proxies.scoring.plan import DomainPlan, Totals, count, make_plan, rows_of, shards_of
from proxies.scoring.rows import Scorer, combine, score_rows, unigram_surprisal
from proxies.scoring.settings import ScoreSettings
from proxies.settings import Settings, load_settings

Result = TypeVar("Result")


@dataclass(frozen=True)
class Work:
    """Description of everything that is to be scored, the same in every process."""

    run_dir: Path
    run_id: str | None
    corpus: CorpusData
    plans: dict[str, DomainPlan]
    totals: dict[str, Totals]
    meta: ScoresMeta


def score(settings: ScoreSettings) -> None:
    """Score the documents of a run and write the scores to RUN_DIR/scores.

    Shards that have their part there already are not scored again.
    """
    run = _run_settings(settings.run_dir)
    accelerator = make_accelerator(run.train.precision)
    require_group(accelerator)
    with ExitStack() as locks:
        lock = directory_lock(scores_path(run.run_path), remedy="wait until it ends")
        decide(lambda: locks.enter_context(lock), accelerator)
        _score(settings, run, accelerator)
    accelerator.end_training()


def _score(settings: ScoreSettings, run: Settings, accelerator: Accelerator) -> None:
    """Do what `score` does, with the lock of the scores' directory held by the main process."""
    checkpoints = decide(lambda: choose_checkpoints(run.run_path, settings.checkpoints), accelerator)
    corpus = prepare_everywhere(run.corpus, run.cache_path, run.draws, accelerator)
    require_same_corpus(
        run.run_path, corpus.record, remedy="to score it with this run, or learn a new run from the new text"
    )
    models = load_models(run, corpus, checkpoints, device=accelerator.device)
    require_causal(models[-1], row_tokens=corpus.row_tokens, source=run.model.source)
    _require_scopes(models[-1], settings)
    work = _plan(settings, run.run_path, corpus, [checkpoint.record for checkpoint in checkpoints], accelerator)
    missing = _take_directory(work, accelerator)
    scorer = Scorer(
        models=models,
        lrs=[checkpoint.record.lr for checkpoint in checkpoints],
        gradients=settings.gradient_columns,
        surprisal=_surprisal(settings, corpus),
        batch_tokens=settings.batch_tokens,
        device=accelerator.device,
        autocast=accelerator.autocast,
    )
    if accelerator.is_main_process:
        _say_hello(work, models[-1], missing, accelerator)
    _score_missing(work, scorer, missing, accelerator)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _write(lambda: write_complete(work.run_dir, work.meta, run_id=work.run_id))
        print(f"\n{scores_text(read_scores(work.run_dir))}\n\nscores: {scores_path(work.run_dir)}", flush=True)


def _run_settings(run_dir: str) -> Settings:
    path = Path(run_dir).resolve()
    if not (path / "config.yaml").is_file():
        reason = (
            "it has no config.yaml"
            if path.is_dir()
            else "it is not a directory"
            if path.exists()
            else "it does not exist"
        )
        raise UserError(f"{run_dir} is not a run directory: {reason}; give one that `proxies.train` wrote")
    if not (path / "corpus.json").is_file():
        raise UserError(
            f"{run_dir} has no corpus.json, which says which text the run read; restore it, or give a run that "
            "`proxies.train` wrote"
        )
    return load_settings(path / "config.yaml", ["--run_dir", str(path)])


def _require_scopes(model: torch.nn.Module, settings: ScoreSettings) -> None:
    faults = []
    for scope in settings.gradient_columns.values():
        try:
            scope_parameters(model, "embedding" if scope == "word_embedding" else scope)
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise UserError("\n".join(faults))


def _surprisal(settings: ScoreSettings, corpus: CorpusData) -> np.ndarray | None:
    if "information" not in settings.scores:
        return None
    return unigram_surprisal([corpus.tokens[name] for name in corpus.domains], vocab_size=corpus.vocab_size)


def _plan(
    settings: ScoreSettings, run_dir: Path, corpus: CorpusData, checkpoints: list[Checkpoint], accelerator: Accelerator
) -> Work:
    """Plan what is to be scored. Raises UserError naming every domain that --max-rows leaves nothing of."""
    plans, faults = {}, []
    for name in corpus.domains:
        try:
            plans[name] = make_plan(
                corpus.documents[name], unit=settings.unit, row_tokens=corpus.row_tokens, max_rows=settings.max_rows
            )
        except UserError as error:
            faults.append(f"  {name}: {error}")
    if faults:
        raise UserError(
            f"--max-rows {settings.max_rows} is too few:\n"
            + "\n".join(faults)
            + "\nraise it, or score rows instead of documents (--unit row)"
        )
    totals = {name: count(plan) for name, plan in plans.items()}
    meta = ScoresMeta(
        unit=settings.unit,
        scores=settings.columns,
        checkpoints=tuple(checkpoints),
        max_rows=settings.max_rows,
        row_tokens=corpus.row_tokens,
        tokenizer=corpus.record["tokenizer"]["fingerprint"],
        domains={name: _scored(corpus, name, total) for name, total in totals.items()},
        environment=environment(world_size=accelerator.num_processes, device=str(accelerator.device)),
    )
    return Work(run_dir, read_run_id(run_dir), corpus, plans, totals, meta)


def _scored(corpus: CorpusData, name: str, total: Totals) -> ScoredDomain:
    entry = corpus.entry(name)
    return ScoredDomain(
        fingerprint=entry["fingerprint"],
        documents=entry["documents"],
        tokens=entry["tokens"],
        scored_documents=total.documents,
        scored_tokens=total.tokens,
        samples=total.samples,
        parts=len(total.shards),
    )


def _take_directory(work: Work, accelerator: Accelerator) -> list[int]:
    """Return the numbers of the shards that are still to be scored; write meta.json if the directory is new.

    Damaged parts are scored again. Raises UserError if RUN_DIR/scores was begun with other settings, or has parts but
    no meta.json.
    """
    before = decide(lambda: read_meta(work.run_dir), accelerator)
    if before is not None:
        free = {"complete": False, "environment": {}}
        if changed := differences(before.model_copy(update=free), work.meta.model_copy(update=free)):
            raise UserError(
                f"{scores_path(work.run_dir)} was made with other settings (then -> now):\n"
                + "\n".join(f"  {line}" for line in changed)
                + f"\nset them back to continue, or remove {scores_path(work.run_dir)} to score again"
            )
    keep = partial(keep_whole_parts, work.run_dir, work.meta, run_id=work.run_id)
    missing, damaged = decide(lambda: _write(keep), accelerator)
    if before is None and len(missing) < work.meta.parts:
        raise UserError(
            f"{scores_path(work.run_dir)} has parts but no meta.json, which says what they are; remove the directory "
            "to score again"
        )
    if accelerator.is_main_process and damaged:
        print(f"scored again, because they were damaged: parts {', '.join(map(str, damaged))}", flush=True)
    if accelerator.is_main_process and before is None:
        _write(lambda: write_meta(work.run_dir, work.meta))
    accelerator.wait_for_everyone()  # so that no part is written before meta.json
    return missing


def _score_missing(work: Work, scorer: Scorer, missing: list[int], accelerator: Accelerator) -> None:
    """Score this process's share of the missing shards, and write each as soon as it is done.

    With P processes, every P-th missing shard belongs to this one.
    """
    assigned = set(missing[accelerator.process_index :: accelerator.num_processes])
    sizes = [size for total in work.totals.values() for size in total.shards]
    main, several = accelerator.is_main_process, accelerator.num_processes > 1
    total = sum(sizes[number] for number in assigned)
    first = 0
    with tqdm(total=total, unit="token", unit_scale=True, disable=not main or not total, dynamic_ncols=True) as bar:
        for name, plan in work.plans.items():
            numbers = range(first, first + len(work.totals[name].shards))
            first = numbers.stop
            if assigned.isdisjoint(numbers):
                continue
            bar.set_description_str(f"{name} (process 1 of {accelerator.num_processes})" if several else name)
            for number, shard in zip(numbers, shards_of(plan), strict=True):
                if number in assigned:
                    table = _score_shard(work, scorer, name, shard, bar)
                    own = {"run_id": work.run_id, "process": accelerator.process_index}
                    _write(partial(write_part, work.run_dir, number, table, **own))


def _score_shard(work: Work, scorer: Scorer, name: str, shard: pd.DataFrame, bar: tqdm) -> pa.Table:
    """Score a shard and return its table.

    Raises UserError for a score that is not finite, naming domain and document, and if the device runs out of memory.
    """
    plan = work.plans[name]
    rows = rows_of(plan, shard)
    by_row = plan.unit == "row"
    try:
        scores = combine(score_rows(scorer, rows, work.corpus.tokens[name], on_batch=bar.update), rows, by_row=by_row)
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"{name}: the device does not have enough memory for a batch of {scorer.batch_tokens} tokens; lower "
            "--batch-tokens (finished parts are kept)"
        ) from error
    sample = rows.document if by_row else slice(None)
    keys = {
        "domain": [name] * len(rows.number if by_row else shard),
        "document": shard["id"].to_numpy()[sample],
        "row": rows.number if by_row else None,
        "start": rows.own_start if by_row else shard["start"],
        "tokens": rows.own_tokens if by_row else shard["tokens"],
    }
    frame = pd.DataFrame({**keys, **{column: scores[column] for column in work.meta.scores}})
    _require_finite(frame, work.meta)
    return pa.Table.from_pandas(
        frame, schema=table_schema(work.meta.scores), preserve_index=False
    ).replace_schema_metadata(None)


def _require_finite(frame: pd.DataFrame, meta: ScoresMeta) -> None:
    for score in meta.scores:
        bad = frame[~np.isfinite(frame[score])]
        if len(bad):
            steps = ", ".join(str(checkpoint.step) for checkpoint in meta.checkpoints)
            first = bad.iloc[0]
            raise UserError(
                f"{score} of document {first['document']} in domain {first['domain']} is {first[score]}, and "
                f"{len(bad)} of {len(frame)} samples of its part are not finite, with the checkpoint of step {steps}: "
                "the model has diverged; score with an earlier checkpoint (--checkpoints)"
            )


def _write(write: Callable[[], Result]) -> Result:
    try:
        return write()
    except OSError as error:
        raise UserError(
            f"the scores could not be written ({error}); finished parts are kept: {remedy(error)}, and give "
            "the same command again"
        ) from error


def _say_hello(work: Work, model: torch.nn.Module, missing: list[int], accelerator: Accelerator) -> None:
    meta = work.meta
    scored, tokens = (
        sum(getattr(domain, key) for domain in meta.domains.values()) for key in ("scored_documents", "scored_tokens")
    )
    done = f", {meta.parts - len(missing)} of {meta.parts} parts are done" if len(missing) < meta.parts else ""
    print(
        f"model:  {parameter_count(model) / 1e6:.2f} M parameters, step "
        f"{', '.join(str(checkpoint.step) for checkpoint in meta.checkpoints)}, "
        f"{accelerator.num_processes} process(es) on {accelerator.device.type}\n"
        f"text:   {scored:,} documents, {tokens_text(tokens)} tokens of {len(meta.domains)} domains, rows of "
        f"{meta.row_tokens}{done}\n"
        f"scores: {', '.join(meta.scores)}",
        flush=True,
    )
