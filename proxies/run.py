"""One proxy model in training: the loop from the start (or a checkpoint) to the last step, evaluation and records."""

import json
import math
import signal
import time
from dataclasses import asdict
from functools import partial
from typing import Literal

import torch
from accelerate import Accelerator
from torch import Tensor
from tqdm import tqdm

import doge
from doge.scopes import scope_parameters
from doge.updates import without_effect
from mixtures.boundary import remedy
from mixtures.errors import UserError, printable
from mixtures.files import write_atomic
from mixtures.run.evaluation import EvaluationWriter
from mixtures.run.trajectory import TrajectoryWriter, record_bytes, step_row
from mixtures.sums import add_sums, new_run_id, read_run_id
from proxies import checkpoints
from proxies.command import Stopped, stop_signals
from proxies.config import dump, environment
from proxies.corpus.corpus import CorpusData
from proxies.doremi import DoremiStepper
from proxies.evaluate import held_out_losses
from proxies.models import build_model, optimization, parameter_count
from proxies.place import agree, decide, ending_alone, place_of
from proxies.preflight import require_causal
from proxies.reuse import describe_reuse
from proxies.settings import Settings
from proxies.simulate import describe_cut
from proxies.step import StepOutcome, Stepper, groups_of, halves_of, read_rows

LARGE_RECORD = 10e9  # bytes of a trajectory from which on a run warns


class ProxyRun:
    """A proxy run in progress: model, optimizer, records and checkpoints, and the loop over the steps."""

    def __init__(self, settings: Settings, corpus: CorpusData, accelerator: Accelerator) -> None:
        self.settings, self.corpus, self.accelerator = settings, corpus, accelerator
        self.path = settings.run_path
        self.main = accelerator.is_main_process
        self.groups = groups_of(settings, corpus)
        self.domains = list(corpus.domains)
        self.model = build_model(
            settings.model,
            vocab_size=corpus.vocab_size,
            eos_id=corpus.eos_id,
            row_tokens=corpus.row_tokens,
            seed=settings.seed,
        ).to(accelerator.device)
        train = settings.train
        self.optimizer, self.scheduler = optimization(self.model, train)
        self.place = place_of(accelerator)
        self._require_scope()
        self.stepper = self._stepper()
        self.step_tokens = len(self.domains) * train.rows_per_domain * corpus.row_tokens
        self.start = 0

    def _stepper(self) -> Stepper | DoremiStepper:
        settings, count = self.settings, len(self.groups)
        shared = (settings, self.groups, self.model, self.optimizer, self.place)
        if settings.update.preset == "doremi":
            return DoremiStepper(*shared, state=doge.start(prior_of("uniform", self.corpus), 0))
        gradients = doge.GroupGradients(
            self.model,
            groups=count,
            halves=halves_of(settings),
            divided=torch.tensor([group.is_divided(self.corpus.row_tokens) for group in self.groups]),
            autocast=self.place.autocast,
        )
        prior = prior_of(settings.constants.prior, self.corpus)
        return Stepper(*shared, gradients=gradients, prior=prior, state=doge.start(prior, count))

    def _require_scope(self) -> None:
        presence = self.settings.samples.presence
        if presence is None:
            return
        try:
            scope_parameters(self.model, presence.scope)
        except ValueError as error:
            raise UserError(f"samples.online.presence.scope: {error}") from error

    def open(self, *, resume: bool) -> None:
        """Check that this model is causal, and the layer rules on it, then set up the run directory.

        A new run gets an id and writes its corpus.json, tokenizer.json and config.yaml. A resumed run loads its newest
        whole checkpoint and cuts its records back to that step.
        """
        rows = read_rows(self.groups[:2], seed=self.settings.seed, step=0, rows=1, row_tokens=self.corpus.row_tokens)
        require_causal(self.model, row_tokens=self.corpus.row_tokens, source=self.settings.model.source)
        doge.verify(self.model, rows.flatten(0, 1).to(self.accelerator.device), groups=2)
        self.accelerator.wait_for_everyone()
        self.run_id = agree(read_run_id(self.path) if resume else new_run_id(), self.accelerator)
        self._open_records()
        choose = partial(checkpoints.choose, self.path, run_id=self.run_id)
        checkpoint, damaged = decide(choose, self.accelerator) if resume else (None, [])
        if checkpoint:
            self.start, self.stepper.state = checkpoints.load(
                checkpoint,
                model=self.model,
                optimizer=self.optimizer,
                scheduler=self.scheduler,
            )
        if resume:
            decide(self._cut_back, self.accelerator)
        if self.main:
            if checkpoint and damaged:
                checkpoints.set_aside(self.path, after=checkpoint)
                print("".join(f"damaged: {fault}\n" for fault in damaged) + f"instead: {checkpoint}", flush=True)
            if not resume:
                facts = environment(world_size=self.accelerator.num_processes, device=str(self.accelerator.device))
                facts["run_id"] = self.run_id
                facts["parameters"] = parameter_count(self.model)
                facts["rule"] = asdict(self.settings.constants)
                write_atomic(self.path / "corpus.json", json.dumps(self.corpus.record, indent=1))
                write_atomic(self.path / "tokenizer.json", self.corpus.tokenizer_path.read_bytes())
                add_sums(self.path, ["corpus.json", "tokenizer.json"], run_id=self.run_id, new=True)
                write_atomic(self.path / "config.yaml", dump(self.settings, facts))
            self._say_hello()
        if self.settings.train.tracker != "none":
            self.accelerator.init_trackers("doge", config={})

    def _cut_back(self) -> None:
        """Remove what the records hold after the step that the run resumes from."""
        self.trajectory.truncate(self.start)
        self.evaluation.truncate(self.start if self.start else -1)

    def _open_records(self) -> None:
        names = [group.name for group in self.groups]
        self.trajectory = TrajectoryWriter(
            self.path / "trajectory", domains=self.domains, groups=names, run_id=self.run_id
        )
        self.evaluation = EvaluationWriter(self.path / "evaluation", run_id=self.run_id)

    def loop(self) -> None:
        """Run every remaining step; evaluate, write records and save checkpoints when they are due.

        Raises Stopped, after a checkpoint, at the end of the step in which SIGTERM or SIGINT came to any process.
        """
        train = self.settings.train
        with (
            ending_alone(self.place, seconds=train.timeout) as alive,
            stop_signals() as asked,
            tqdm(
                desc=printable(self.path.name),
                total=train.steps,
                initial=self.start,
                unit="step",
                disable=not self.main,
                dynamic_ncols=True,
            ) as bar,
        ):
            if not self.start:
                self._evaluate(0)
                alive()
            for step in range(self.start, train.steps):
                began = time.perf_counter()
                lr = float(self.scheduler.get_last_lr()[0])
                outcome = self.stepper(step, lr)
                self.scheduler.step()
                self._record(step + 1, lr, outcome, time.perf_counter() - began, bar)
                alive()
                last, stop = step + 1 == train.steps, self.place.largest(asked())
                if last or (step + 1) % train.evaluate_every == 0:
                    self._evaluate(step + 1)
                    alive()
                if last or stop or (step + 1) % train.save_every == 0:
                    self._save(step + 1)
                if stop and not last:
                    raise Stopped(
                        stop,
                        f"stopped by {signal.Signals(stop).name} after step {step + 1} of {train.steps}, with its "
                        "checkpoint; continue with --resume",
                    )

    def _record(self, step: int, lr: float, outcome: StepOutcome, seconds: float, bar: tqdm) -> None:
        if not self.main:
            return
        arrays = outcome.arrays
        if (step - 1) % self.settings.train.gram_every:
            arrays.pop("gram", None)
        self.trajectory.append(
            step_row(
                domains=self.domains,
                groups=[group.name for group in self.groups],
                arrays=arrays,
                step=step,
                tokens=step * self.step_tokens,
                lr=lr,
                tokens_per_second=self.step_tokens / seconds,
                gradient_norm=outcome.gradient_norm,
                reach_factor=outcome.decision.reach_factor,
            )
        )
        weights = dict(zip(self.domains, outcome.decision.weights.tolist(), strict=True))
        largest = max(weights, key=weights.__getitem__)
        loss = float(outcome.losses[: len(self.domains)].mean())
        bar.set_postfix_str(
            f"loss {loss:.3f}, {self.step_tokens / seconds:,.0f} tokens/s, {largest} {weights[largest]:.3f}",
            refresh=False,
        )
        bar.update()
        if self.settings.train.tracker != "none":
            self.accelerator.log(
                {"loss": loss, **{f"weight/{name}": value for name, value in weights.items()}}, step=step
            )

    def _evaluate(self, step: int) -> None:
        records = held_out_losses(
            self.model,
            self.corpus,
            rows=self.settings.train.evaluate_rows,
            step=step,
            tokens=step * self.step_tokens,
            place=self.place,
        )
        if self.main:
            self.evaluation.append(records)

    def _save(self, step: int) -> None:
        """Write the records, then a checkpoint, so that no checkpoint is ahead of the records on disk."""
        if self.main:
            try:
                self.evaluation.flush()
                self.trajectory.flush()  # last: where there is a trajectory, there are held-out losses
            except OSError as error:
                raise UserError(
                    f"the records of {self.path} could not be written ({error}); the last good checkpoint is "
                    f"{checkpoints.newest(self.path) or 'none'}; {remedy(error)}, and continue with --resume"
                ) from error
            checkpoints.save(
                self.path,
                step,
                run_id=self.run_id,
                model=self.model,
                optimizer=self.optimizer,
                scheduler=self.scheduler,
                rule=self.stepper.state,
                keep=self.settings.train.keep_checkpoints,
            )
        self.accelerator.wait_for_everyone()

    def _say_hello(self) -> None:
        train, update = self.settings.train, self.settings.update
        presence = self.settings.samples.presence
        extra = [group.name for group in self.groups[len(self.domains) :]]
        print(
            f"proxy: {parameter_count(self.model) / 1e6:.1f} M parameters, {self.accelerator.num_processes} "
            f"process(es) on "
            f"{self.accelerator.device.type}, {train.precision}\n"
            f"step:  {len(self.domains)} domains x {train.rows_per_domain} rows x {self.corpus.row_tokens} tokens"
            + (f", and the same of {', '.join(extra)} for the objective" if extra else "")
            + (f"\nsamples: presence, {presence.scope}, units of {presence.unit_rows} row(s)" if presence else "")
            + (f"\n{describe_cut(self.corpus, self.settings)}" if self.settings.corpus.simulate_budget.tokens else "")
            + (f"\n{describe_reuse(self.corpus)}" if self.settings.reuse else "")
            + f"\n{self._describe_record()}"
            + f"\nrule:  {update.preset}; {'resumes after step ' + str(self.start) if self.start else 'starts'}, "
            f"{train.steps} steps",
            flush=True,
        )
        tiny = [group.name for group in self.groups if not group.is_divided(self.corpus.row_tokens)]
        if tiny and update.preset == "stable":
            print(
                f"note:  {', '.join(tiny)} fill(s) only one row, so what a step does for its own text cannot be told "
                "from noise; a domain that the objective needs this for keeps its prior weight",
                flush=True,
            )
        unused = without_effect(update.preset, update.model_dump(exclude_none=True))
        if unused:
            print(
                f"note:  {', '.join('update.' + name for name in unused)} has no effect with preset {update.preset}",
                flush=True,
            )

    def _describe_record(self) -> str:
        """Return the line that says how large the trajectory may become, with a warning above LARGE_RECORD."""
        train, grams = self.settings.train, self.settings.update.preset != "doremi"
        size = record_bytes(
            domains=len(self.domains),
            groups=len(self.groups),
            steps=train.steps,
            grams=len(range(0, train.steps, train.gram_every)) if grams else 0,
        )
        text = f"record: {size / 1e6:,.1f} MB at most in {self.path / 'trajectory'}"
        if grams:
            text += f", with the gram of {len(self.groups)} groups at "
            text += "every step" if train.gram_every == 1 else f"one of {train.gram_every} steps"
        if size > LARGE_RECORD:
            text += (
                f"\nwarning: these are more than {LARGE_RECORD / 1e9:.0f} GB; train.gram_every: "
                f"{math.ceil(train.gram_every * size / LARGE_RECORD)} keeps fewer grams, which only makes the "
                "diagnosis less precise"
            )
        return text


def prior_of(kind: Literal["uniform", "natural"], corpus: CorpusData) -> Tensor:
    """Return the weights (D,) to start from: equal for all domains, or in proportion to their token counts.

    With equal weights, the domain `reused` counts once per domain in it.
    """
    if kind == "natural":
        tokens = torch.tensor([corpus.entry(name)["tokens"] for name in corpus.domains], dtype=torch.float64)
        return tokens / tokens.sum()
    counts = torch.tensor([len(corpus.members(name)) for name in corpus.domains], dtype=torch.float64)
    return counts / counts.sum()
