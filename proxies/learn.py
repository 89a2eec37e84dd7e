"""A whole run, from settings to mixture.json: what must hold, the corpus, the proxy's training, what a person reads at
the end.
"""

from pathlib import Path

from accelerate import Accelerator
from torch import nn

from mixtures.diagnosis.diagnosis import diagnose, diagnosis_text, write_diagnosis
from mixtures.export import export_mixture
from mixtures.plots.run import plot_run
from mixtures.run.summary import summary
from proxies.corpus.corpus import CorpusData, prepare
from proxies.doremi import DoremiStepper, reference_settings
from proxies.preflight import require_directory, require_divisible, require_group, require_same_corpus, require_tracker
from proxies.replicates import write_run_replicates
from proxies.reuse import reuse
from proxies.run import ProxyRun
from proxies.settings import Settings
from proxies.simulate import simulate


def train(settings: Settings, *, resume: bool = False) -> None:
    """A whole run: corpus, model, steps, records, mixture and plots, all in `settings.run_dir`."""
    require_tracker(settings)
    tracker = settings.train.tracker
    accelerator = Accelerator(
        mixed_precision="no" if settings.train.precision == "fp32" else settings.train.precision,
        log_with=None if tracker == "none" else tracker,
        project_dir=settings.run_dir,
    )
    require_group(accelerator)
    learn(settings, accelerator, resume=resume)
    accelerator.end_training()


def learn(settings: Settings, accelerator: Accelerator, *, resume: bool = False) -> None:
    """`train` in processes that are up already and stay up."""
    require_divisible(settings, accelerator.num_processes)
    require_directory(settings, resume=resume)
    with accelerator.main_process_first():
        corpus = reuse(simulate(prepare(settings, progress=accelerator.is_main_process), settings), settings)
    if resume:
        require_same_corpus(settings, corpus.record)
    run = ProxyRun(settings, corpus, accelerator)
    run.open(resume=resume)
    if isinstance(run.stepper, DoremiStepper) and run.start < settings.train.steps:
        run.stepper.reference = train_reference(settings, corpus, accelerator)
    run.loop()
    if accelerator.is_main_process:
        write_run_replicates(settings)
        finish(settings.run_path)


def train_reference(settings: Settings, corpus: CorpusData, accelerator: Accelerator) -> nn.Module:
    """DoReMi's reference model: an ordinary run in RUN_DIR/reference, of which only the steps not yet made are run."""
    own = reference_settings(settings)
    started = (own.run_path / "config.yaml").exists()
    require_directory(own, resume=started)
    if accelerator.is_main_process:
        print(
            f"reference: first, the same model on the prior ({settings.constants.prior}), in {own.run_path}", flush=True
        )
    run = ProxyRun(own, corpus, accelerator)
    run.open(resume=started)
    run.loop()
    return run.model.eval().requires_grad_(False)


def finish(run_dir: Path) -> None:
    """Write mixture.json, the diagnosis and the plots, print the table that a person reads."""
    path = run_dir / "mixture.json"
    export_mixture([run_dir]).save(path)
    diagnosis = diagnose(run_dir)
    write_diagnosis(run_dir, diagnosis)
    plots = plot_run(run_dir, run_dir / "plots")
    text = f"{summary(run_dir)}\n\n{diagnosis_text(diagnosis)}"
    print(f"\n{text}\n\nmixture: {path}\nplots:   {', '.join(str(plot) for plot in plots)}", flush=True)
