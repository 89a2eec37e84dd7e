"""A whole comparison: learn the mixtures that are to be learned, train base models, write tables and plots."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from textwrap import fill
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

from mixtures import Mixture
from mixtures.compare.directory import finished_bases, read_bases
from mixtures.errors import UserError
from mixtures.files import write_atomic
from mixtures.locks import locked
from mixtures.run.run import RunRecord
from mixtures.text import tokens_text
from proxies.comparison.base import train_base
from proxies.comparison.contenders import make_mixture, read_learned, require_scores, sample_notes
from proxies.comparison.costs import NOTE, base_cost, total_cost
from proxies.comparison.records import (
    require_kept,
    require_same,
    save_base,
    take_directory,
    write_results,
)
from proxies.comparison.settings import CompareSettings
from proxies.config import environment
from proxies.corpus.corpus import CorpusData, prepare_everywhere
from proxies.learn import learn
from proxies.models import build_model, parameter_count
from proxies.place import agree, decide, ending_alone, make_accelerator, place_of
from proxies.preflight import require_causal, require_divisible, require_group, require_same_corpus


def compare(settings: CompareSettings) -> None:
    """Do a whole comparison; results that `settings.run_dir` holds already are not computed again."""
    # manifests go into a temporary directory first: nothing is written into run_dir before all checks are done
    with TemporaryDirectory() as folder:
        _compare(settings, Path(folder))


def _compare(settings: CompareSettings, folder: Path) -> None:
    accelerator = make_accelerator(settings.train.precision)
    require_group(accelerator)
    _require_divisible(settings, accelerator.num_processes)
    require_same(settings)
    finished_bases(settings.run_path)  # damaged ones are refused before anything is trained
    corpus = _prepared(settings, accelerator)
    if accelerator.is_main_process:
        _say_hello(settings, corpus, accelerator)
    for name in settings.learned:
        require_scores(settings, name, corpus.record, folder=folder)
    fixed = [name for name in settings.mixtures if name not in settings.learned]
    runs = {name: read_learned(settings, name) for name in fixed}
    mixtures = _made(settings, runs, corpus, folder)
    # everything that can be checked was checked: from here on, the directory belongs to this comparison
    _take_directory(settings, corpus, mixtures, accelerator)
    learn_missing(settings, accelerator)
    learned = {name: read_learned(settings, name) for name in settings.learned}
    mixtures |= _made(settings, learned, corpus, folder)
    _take_directory(settings, corpus, mixtures, accelerator)
    train_missing(settings, corpus, mixtures, accelerator)
    if accelerator.is_main_process:
        with locked(settings.run_path / ".lock"):
            finish(settings, corpus, runs | learned)
    accelerator.end_training()


def learn_missing(settings: CompareSettings, accelerator: Accelerator) -> None:
    """Do the proxy runs that are missing, one after the other; wait for those that another command is learning."""
    waiting = [(name, run) for name in settings.learned for run in settings.runs_of(name)]
    for wait in (False, True):
        for name, run in list(waiting):
            with _turn(run.run_path.with_name(f"{run.run_path.name}.lock"), accelerator, wait=wait) as mine:
                if not mine:
                    continue
                waiting.remove((name, run))
                if not agree((run.run_path / "mixture.json").exists(), accelerator):
                    if accelerator.is_main_process:
                        print(f"\nlearning {name} ({run.update.preset}) in {run.run_path}", flush=True)
                    try:
                        learn(run, accelerator, resume=agree((run.run_path / "config.yaml").exists(), accelerator))
                    except UserError as error:
                        raise UserError(f"learning {name}: {error}") from error
                    accelerator.wait_for_everyone()


def train_missing(
    settings: CompareSettings, corpus: CorpusData, mixtures: dict[str, Mixture], accelerator: Accelerator
) -> None:
    """Train the base models that are missing, seed by seed, so that every finished seed is a whole comparison."""
    path, main = settings.run_path, accelerator.is_main_process
    place = place_of(accelerator)
    missing = decide(lambda: _missing(settings), accelerator)
    with (
        ending_alone(place, seconds=settings.train.timeout) as alive,
        tqdm(total=len(missing) * settings.train.steps, unit="step", disable=not main, dynamic_ncols=True) as bar,
    ):
        for name, seed in missing:
            show = partial(_show, bar, alive, f"{name} seed {seed}")
            run = train_base(settings, corpus, mixtures[name], seed=seed, place=place, on_step=show)
            if main:
                if run.facts["diverged"] is not None:
                    bar.write(
                        f"{name} seed {seed}: diverged at step {run.facts['diverged']} (loss or gradient not finite)"
                    )
                facts = {"mixture_id": mixtures[name].id, "environment": _environment(accelerator)}
                save_base(path, name, seed, run, facts)


def finish(settings: CompareSettings, corpus: CorpusData, runs: Mapping[str, Sequence[RunRecord]]) -> None:
    """Write results.parquet, costs.json, summary.txt and the plots, and print the summary."""
    from mixtures.compare.directory import read_comparison
    from mixtures.compare.text import WIDTH, comparison_text
    from mixtures.plots.comparison import plot_comparison

    path, names = settings.run_path, list(settings.mixtures)
    bases = read_bases(path)
    write_results(path, bases)
    costs = {name: total_cost(runs[name]) for name in names}
    base = base_cost(bases.of(names).facts)
    write_atomic(path / "costs.json", json.dumps({"base_run": base, "mixtures": costs, "note": NOTE}, indent=1))
    record = read_comparison(path, names, bases=bases)
    notes = [NOTE, *_unread(corpus), *sample_notes(settings, record.mixtures)]
    text = (
        "\n".join([comparison_text(record.comparison), *(fill(note, WIDTH, subsequent_indent="  ") for note in notes)])
        + "\n"
    )
    write_atomic(path / "summary.txt", text)
    plots = plot_comparison(record.comparison, path / "plots")
    print(f"\n{text}\nresults: {path / 'results.parquet'}\nplots:   {', '.join(map(str, plots))}", flush=True)


def _prepared(settings: CompareSettings, accelerator: Accelerator) -> CorpusData:
    text = settings.text
    corpus = prepare_everywhere(text, Path(text.cache_dir), settings.draws, accelerator)
    if (settings.run_path / "corpus.json").exists():
        require_same_corpus(settings.run_path, corpus.record)
    return corpus


def _made(
    settings: CompareSettings, runs: Mapping[str, Sequence[RunRecord]], corpus: CorpusData, folder: Path
) -> dict[str, Mixture]:
    """Make the mixtures of these names, each from its proxy runs if it was learned, and check the ones kept before."""
    mixtures = {name: make_mixture(settings, name, corpus.record, own, folder=folder) for name, own in runs.items()}
    for name, mixture in mixtures.items():
        require_kept(settings.run_path, name, mixture)
    return mixtures


def _take_directory(
    settings: CompareSettings, corpus: CorpusData, mixtures: dict[str, Mixture], accelerator: Accelerator
) -> None:
    accelerator.wait_for_everyone()  # until every process has checked the directory
    if accelerator.is_main_process:
        files: dict[str, bytes | str] = {
            "corpus.json": json.dumps(corpus.record, indent=1),
            "tokenizer.json": corpus.tokenizer_path.read_bytes(),
        }
        take_directory(settings, files=files, mixtures=mixtures, environment=_environment(accelerator))


def _environment(accelerator: Accelerator) -> dict[str, Any]:
    return environment(world_size=accelerator.num_processes, device=str(accelerator.device))


def _show(bar: tqdm, alive: Callable[[], None], label: str, step: int, loss: float, speed: float) -> None:
    alive()
    bar.set_postfix_str(f"{label}, step {step}, loss {loss:.3f}, {speed:,.0f} tokens/s", refresh=False)
    bar.update()


def _unread(corpus: CorpusData) -> list[str]:
    """Return a note that names the domains whose text was read in part, if there are any."""
    names = [name for name in corpus.domains if not corpus.entry(name)["complete"]]
    return [f"Not read to the end: {', '.join(names)}; natural shares are those of the part read."] if names else []


def _missing(settings: CompareSettings) -> list[tuple[str, int]]:
    finished = finished_bases(settings.run_path)
    runs = [(name, seed) for seed in settings.seeds for name in settings.mixtures]
    return [run for run in runs if run not in finished]


def _require_divisible(settings: CompareSettings, processes: int) -> None:
    rows = settings.train.batch_rows
    if rows % processes:
        raise UserError(
            f"train.batch_rows is {rows}, which does not split over {processes} processes; use a multiple of "
            f"{processes}"
        )
    for name in settings.learned:
        try:
            require_divisible(settings.run_of(name), processes)
        except UserError as error:
            raise UserError(f"mixtures.{name}: {error}") from error


@contextmanager
def _turn(path: Path, accelerator: Accelerator, *, wait: bool) -> Iterator[bool]:
    """Hold the lock file `path` for all processes of this command while the block runs, and yield True.

    With wait=False, yield False in all processes if another command holds it.
    """
    with ExitStack() as locks:
        mine = agree(accelerator.is_main_process and locks.enter_context(locked(path, wait=False)), accelerator)
        if wait and not mine:
            if accelerator.is_main_process:
                print(f"{path.stem}: another command is learning it; waiting", flush=True)
                locks.enter_context(locked(path))
            mine = agree(True, accelerator)  # the other processes wait here for the first
        yield mine


def _say_hello(settings: CompareSettings, corpus: CorpusData, accelerator: Accelerator) -> None:
    """Print what the comparison will do, and build a base model.

    One that does not fit, or that sees later tokens, is refused before learning.
    """
    train, sizes = (
        settings.train,
        {"vocab_size": corpus.vocab_size, "eos_id": corpus.eos_id, "row_tokens": corpus.row_tokens},
    )
    model = build_model(settings.model, **sizes, seed=0).to(accelerator.device)
    require_causal(model, row_tokens=corpus.row_tokens, source=settings.model.source)
    parameters = parameter_count(model)
    print(
        f"bases: {len(settings.mixtures)} mixtures x {len(settings.seeds)} seed(s), {len(_missing(settings))} runs "
        f"to do, "
        f"{accelerator.num_processes} process(es) on {accelerator.device.type}, {train.precision}\n"
        f"each:  {parameters / 1e6:.2f} M parameters, {train.steps} steps x {train.batch_rows} rows x "
        f"{settings.corpus.row_tokens} "
        f"tokens = {tokens_text(settings.base_tokens)} tokens",
        flush=True,
    )
