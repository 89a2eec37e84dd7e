"""A whole run, from settings to mixture.json: checks, the corpus, the proxy's training, and the summary at the end."""

from contextlib import ExitStack
from typing import Literal

from accelerate import Accelerator
from torch import nn

from mixtures.diagnosis.diagnosis import diagnose, diagnosis_text, write_diagnosis
from mixtures.export import export_mixture
from mixtures.locks import directory_lock
from mixtures.plots.run import plot_run
from mixtures.run.run import RunRecord, read_run
from mixtures.run.summary import summary
from proxies.corpus.corpus import CorpusData, prepare_everywhere
from proxies.doremi import DoremiStepper, reference_settings
from proxies.place import agree, decide, make_accelerator
from proxies.preflight import require_directory, require_divisible, require_group, require_same_corpus, require_tracker
from proxies.replicates import write_run_replicates
from proxies.reuse import reuse
from proxies.run import ProxyRun
from proxies.settings import Settings
from proxies.simulate import simulate


def train(settings: Settings, *, resume: bool | Literal["auto"] = False) -> RunRecord | None:
    """Train a proxy and learn domain weights; corpus, records, mixture and plots go into `settings.run_dir`.

    Return the run's record; None in every process but the first. `resume` continues a run that was interrupted; `auto`
    starts it if there is none. Raises UserError for settings, text and directories that cannot be used.
    """
    require_tracker(settings)
    tracker = settings.train.tracker
    accelerator = make_accelerator(
        settings.train.precision, log_with=None if tracker == "none" else tracker, project_dir=settings.run_dir
    )
    require_group(accelerator)
    record = learn(settings, accelerator, resume=resume)
    accelerator.end_training()
    return record


def learn(settings: Settings, accelerator: Accelerator, *, resume: bool | Literal["auto"] = False) -> RunRecord | None:
    """Do what `train` does, and return what it returns, with an accelerator that exists already and stays usable."""
    require_divisible(settings, accelerator.num_processes)
    if resume != "auto":  # checked again with the lock; this leaves a directory that is refused as it is
        require_directory(settings, resume=resume)
    with ExitStack() as locks:
        lock = directory_lock(settings.run_path, remedy="wait until it ends, or give another run_dir")
        decide(lambda: locks.enter_context(lock), accelerator)
        if resume == "auto":
            resume = bool(agree((settings.run_path / "config.yaml").exists(), accelerator))
        return _learn(settings, accelerator, resume=resume)


def _learn(settings: Settings, accelerator: Accelerator, *, resume: bool) -> RunRecord | None:
    """Do what `learn` does, with the lock of the run directory held by the main process."""
    require_directory(settings, resume=resume)
    prepared = prepare_everywhere(settings.corpus, settings.cache_path, settings.draws, accelerator)
    corpus = reuse(simulate(prepared, settings), settings)
    if resume:
        require_same_corpus(settings.run_path, corpus.record)
    run = ProxyRun(settings, corpus, accelerator)
    run.open(resume=resume)
    if isinstance(run.stepper, DoremiStepper) and run.start < settings.train.steps:
        run.stepper.reference = train_reference(settings, corpus, accelerator)
    run.loop()
    return finish(settings) if accelerator.is_main_process else None


def train_reference(settings: Settings, corpus: CorpusData, accelerator: Accelerator) -> nn.Module:
    """Train DoReMi's reference model, an ordinary run in RUN_DIR/reference, and return the model.

    If that run was started before, it continues from its newest checkpoint.
    """
    reference = reference_settings(settings)
    started = agree((reference.run_path / "config.yaml").exists(), accelerator)
    require_directory(reference, resume=started)
    if accelerator.is_main_process:
        print(
            f"reference: the same model is first trained on the prior ({settings.constants.prior}), in "
            f"{reference.run_path}",
            flush=True,
        )
    run = ProxyRun(reference, corpus, accelerator)
    run.open(resume=started)
    run.loop()
    return run.model.eval().requires_grad_(False)


def finish(settings: Settings) -> RunRecord:
    """Write and print the results of a finished run, and return its record. The run's directory is read once."""
    run = read_run(settings.run_path)
    write_run_replicates(run, settings)
    write_results(run)
    return run


def write_results(run: RunRecord) -> None:
    """Write mixture.json, diagnosis.json and plots/ of a run, and print the table that a person reads."""
    path = run.path / "mixture.json"
    export_mixture([run]).save(path)
    diagnosis = diagnose(run)
    write_diagnosis(run.path, diagnosis)
    plots = plot_run(run, run.path / "plots")
    text = f"{summary(run)}\n\n{diagnosis_text(diagnosis)}"
    print(f"\n{text}\n\nmixture: {path}\nplots:   {', '.join(str(plot) for plot in plots)}", flush=True)
