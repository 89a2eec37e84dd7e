"""A whole search: checks, the corpus, rounds of proxies from the prior on, and the best mixture that was measured."""

import json
import signal
from contextlib import ExitStack
from typing import Any

from accelerate import Accelerator
from tqdm import tqdm

from mixtures.errors import UserError
from mixtures.files import read_yaml, write_atomic
from mixtures.locks import directory_lock
from mixtures.sums import add_sums, new_run_id, read_run_id
from proxies.command import Stopped, stop_signals
from proxies.config import differences, dump, environment, load
from proxies.corpus.corpus import CorpusData, prepare_everywhere
from proxies.effects.fixed import has_dropout
from proxies.effects.memory import plan_memory
from proxies.effects.objective import held_out
from proxies.models import build_model, parameter_count
from proxies.place import Place, decide, ending_alone, make_accelerator, place_of
from proxies.preflight import MAY_CHANGE, require_causal, require_group, require_same_corpus
from proxies.run import prior_of
from proxies.search.proxies import Proxies
from proxies.search.results import write_results
from proxies.search.rounds import search_rounds
from proxies.search.settings import SearchSettings
from proxies.simulate import simulate

OTHER = "{} holds another kind of run; give the search a run_dir of its own (--run_dir)"


def search(settings: SearchSettings) -> None:
    """Do a whole search; what `settings.run_dir` holds already is not computed again."""
    accelerator = make_accelerator("fp32")
    require_group(accelerator)
    _require_divisible(settings, accelerator.num_processes)
    with ExitStack() as locks:
        lock = directory_lock(settings.run_path, remedy="wait until it ends, or give another run_dir")
        decide(lambda: locks.enter_context(lock), accelerator)
        _search(settings, accelerator)
    accelerator.end_training()


def _search(settings: SearchSettings, accelerator: Accelerator) -> None:
    _require_directory(settings)
    place = place_of(accelerator)
    prepared = prepare_everywhere(settings.corpus, settings.cache_path, settings.draws, accelerator)
    corpus = simulate(prepared, settings)
    if (settings.run_path / "corpus.json").exists():
        require_same_corpus(settings.run_path, corpus.record)
    rows = held_out(settings, corpus, place, rows=settings.search.objective_rows)
    hello, parameters = _hello(settings, corpus, place)
    plan = plan_memory(
        parameters=parameters,
        steps=settings.train.steps,
        runs=settings.search.seeds,
        limit=settings.search.memory * 1e9,
    )
    accelerator.wait_for_everyone()
    run_id = decide(lambda: _open(settings, corpus, accelerator), accelerator)
    if accelerator.is_main_process:
        print(f"{hello}\nmemory: {plan.text}", flush=True)
    most = settings.search.seeds * (3 * settings.search.rounds + 1)  # runs: one to measure, two to pull back
    with (
        ending_alone(
            place, seconds=settings.train.timeout, remedy="Finished proxies are kept; give the same command to go on"
        ) as alive,
        stop_signals() as asked,
        tqdm(
            total=most * settings.train.steps, unit="step", disable=not accelerator.is_main_process, dynamic_ncols=True
        ) as bar,
    ):

        def on_step(label: str, steps: int) -> None:
            alive()
            bar.set_postfix_str(label, refresh=False)
            bar.update(steps)
            if stop := place.largest(asked()):
                raise Stopped(
                    stop,
                    f"stopped by {signal.Signals(stop).name} in {label}; finished proxies are kept, give the same "
                    "command to go on",
                )

        proxies = Proxies(settings, corpus, accelerator, held_out=rows, plan=plan, run_id=run_id, on_step=on_step)
        done, why = search_rounds(settings, proxies, prior_of(settings.constants.prior, corpus).numpy())
    if accelerator.is_main_process:
        write_results(settings, proxies, done, why)


def _require_directory(settings: SearchSettings) -> None:
    """Check that the directory is empty or holds a search with the same settings, which then goes on."""
    path = settings.run_path
    if (path / "trajectory").exists() or (path / "bases").exists():
        raise UserError(OTHER.format(path))
    if not (path / "config.yaml").exists():
        if (path / "rounds").exists():
            raise UserError(
                f"{path} has rounds but no config.yaml, which says what they are; restore it, or give a new run_dir"
            )
        return
    if "search" not in (read_yaml(path / "config.yaml") or {}):
        raise UserError(OTHER.format(path))
    before = load(SearchSettings, path / "config.yaml")
    may_change = (*MAY_CHANGE, "search.memory", "search.rounds", "corpus.cache_dir")
    if changed := [line for line in differences(before, settings) if not line.startswith(may_change)]:
        lines = "\n".join(f"  {line}" for line in changed)
        raise UserError(
            f"{path} was started with other settings (then -> now):\n{lines}\nSet them back to go on, or give a new "
            "run_dir"
        )


def _open(settings: SearchSettings, corpus: CorpusData, accelerator: Accelerator) -> str:
    """Write config.yaml, corpus.json and tokenizer.json of a new search; return the search's id."""
    path = settings.run_path
    if (path / "config.yaml").exists():
        return str(read_run_id(path))
    facts: dict[str, Any] = environment(world_size=accelerator.num_processes, device=str(accelerator.device))
    facts["run_id"] = new_run_id()
    write_atomic(path / "corpus.json", json.dumps(corpus.record, indent=1))
    write_atomic(path / "tokenizer.json", corpus.tokenizer_path.read_bytes())
    add_sums(path, ["corpus.json", "tokenizer.json"], run_id=facts["run_id"], new=True)
    write_atomic(path / "config.yaml", dump(settings, facts))
    return str(facts["run_id"])


def _hello(settings: SearchSettings, corpus: CorpusData, place: Place) -> tuple[str, int]:
    """Return what the search will do and cost, and the number of parameters; check the model."""
    sizes = {"vocab_size": corpus.vocab_size, "eos_id": corpus.eos_id, "row_tokens": corpus.row_tokens}
    model = build_model(settings.model, **sizes, seed=settings.seed).to(place.device)
    require_causal(model, row_tokens=corpus.row_tokens, source=settings.model.source)
    parameters, search, train = parameter_count(model), settings.search, settings.train
    rows = len(corpus.domains) * train.rows_per_domain
    text = (
        f"proxies: {parameters / 1e6:.2f} M parameters, {train.steps} steps x {rows} rows x {corpus.row_tokens} "
        f"tokens, {place.processes} process(es) on {place.device.type}, fp32\n"
        f"search:  at most {search.rounds + 1} mixtures x {search.seeds} seed(s); a mixture costs a run, and two more "
        f"where a step goes out from it: {search.seeds * (3 * search.rounds + 1)} runs at most"
    )
    if has_dropout(model):
        text += "\nnote:    dropout is switched off, because effects are derivatives of a run without chance"
    if train.precision != "fp32":
        text += f"\nnote:    train.precision {train.precision} has no effect: effects are computed in fp32"
    return text, parameters


def _require_divisible(settings: SearchSettings, processes: int) -> None:
    rows = len(settings.corpus.domains) * settings.train.rows_per_domain
    parts = processes * settings.train.accumulate
    if rows % parts:
        raise UserError(
            f"a step has {rows} rows (domains x train.rows_per_domain), which do not split over {processes} "
            f"process(es) x {settings.train.accumulate} micro-batch(es); make train.rows_per_domain a multiple of "
            f"{parts}"
        )
