"""The proxies of a search: what they measure at a mixture, and the effects of their domains.

rounds/NN/mixture.json           the mixture of round NN, as its proxies read it
rounds/NN/seed-S.parquet         loss of every held-out row of the objective at the end of the proxy with seed S
rounds/NN/seed-S-effects.parquet  effect of every domain in every step on the objective, and the adjoint's norm
rounds/NN/_SHA256SUMS            hashes of these files, and the search's id (`mixtures.sums`)
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
from accelerate import Accelerator
from torch import Tensor

from doge.adjoint import Segment
from mixtures import Mixture
from mixtures.errors import UserError
from mixtures.files import write_atomic
from mixtures.run.run import CorpusDomain, CorpusRecord
from mixtures.schedule.records import Domain
from mixtures.schedule.shares import fixed_mixture
from mixtures.sums import NAME as SUMS
from mixtures.sums import add_sums, read_sums, require_whole
from proxies.corpus.corpus import CorpusData
from proxies.effects.fixed import FixedRun, fixed_run, require_finite, sampled_rows
from proxies.effects.memory import MemoryPlan
from proxies.effects.objective import HeldOut
from proxies.place import decide, place_of
from proxies.search.settings import SearchSettings

Losses = dict[str, np.ndarray]  # {domain or target of the objective: loss of every held-out row (n,)}
SAME = 1e-6  # weights differ by less if a round is computed again on other hardware
OnStep = Callable[[str, int], None]  # what is done, and how many plain steps it cost


class Proxies:
    """The proxies of all rounds and seeds; what files hold already is not computed again."""

    def __init__(
        self,
        settings: SearchSettings,
        corpus: CorpusData,
        accelerator: Accelerator,
        *,
        held_out: HeldOut,
        plan: MemoryPlan,
        run_id: str,
        on_step: OnStep,
    ) -> None:
        self.settings, self.corpus, self.accelerator = settings, corpus, accelerator
        self.place = place_of(accelerator)
        self.held_out, self.plan, self.run_id, self.on_step = held_out, plan, run_id, on_step
        total = sum(settings.importance.values())
        self.objective = {name: value / total for name, value in settings.importance.items()}
        self.seeds = [settings.seed + number for number in range(settings.search.seeds)]
        self._kept: dict[
            tuple[int, int], tuple[FixedRun, list[Segment], Tensor]
        ] = {}  # by (round, seed), of the newest

    def measure(self, number: int, weights: np.ndarray) -> list[Losses]:
        """Return what the proxies of round `number` measure at a mixture (D,), one table per seed."""
        folder = self._folder(number)
        mixture = self.mixture(weights)
        decide(partial(self._require_same, number, mixture), self.accelerator)
        self._save(folder / "mixture.json", mixture.save)
        self._kept.clear()  # before the next round's runs take the same memory
        measured = []
        for seed in self.seeds:
            path = folder / f"seed-{seed}.parquet"
            table = self._read(path)
            if table is None:
                label = f"round {number}, seed {seed}"
                run, _, theta = self._kept[number, seed] = self._train(mixture, seed, label)
                losses, _ = self.held_out.measure(run.unrolled.weights, theta)
                with _named(label):
                    for name, values in losses.items():
                        require_finite(values, f"the loss on {name} at the end")
                rows = [
                    {"domain": name, "row": row, "loss": loss}
                    for name, values in losses.items()
                    for row, loss in enumerate(values.tolist())
                ]
                table = pd.DataFrame(rows)
                self._save(path, partial(_write_table, table))
            measured.append({str(name): part["loss"].to_numpy() for name, part in table.groupby("domain", sort=False)})
        return measured

    def effects(self, number: int, weights: np.ndarray) -> np.ndarray:
        """Return the effect of every domain, summed over the steps of a round's proxies (K, D); nats.

        It is the change of the objective when the logarithm of the domain's weight grows by 1, to first order. Steps
        before the adjoint became rough are not counted.
        """
        folder = self._folder(number)
        found = []
        for seed in self.seeds:
            path = folder / f"seed-{seed}-effects.parquet"
            table = self._read(path)
            if table is None:
                kept = self._kept.get((number, seed))
                run, segments, theta = kept or self._train(
                    self.mixture(weights), seed, f"round {number}, seed {seed} again"
                )
                table = self._pull_back(run, segments, theta, f"round {number}, seed {seed}, back")
                self._save(path, partial(_write_table, table))
            sums = table.groupby("domain")["effect"].sum()
            found.append(sums[list(self.corpus.domains)].to_numpy())
        return np.stack(found)

    def step_effects(self, number: int) -> pd.DataFrame:
        """Read the effects of a round's domains at every step, all seeds: seed, step, domain, effect, norm."""
        paths = {seed: self._folder(number) / f"seed-{seed}-effects.parquet" for seed in self.seeds}
        return pd.concat([pd.read_parquet(path).assign(seed=seed) for seed, path in paths.items()], ignore_index=True)

    def mixture(self, weights: np.ndarray, *, whole: bool = False) -> Mixture:
        """Return the mixture (D,) over the tokens of a proxy run.

        whole: of all text, as the large run reads it, where `corpus.simulate_budget` cut that of the proxies.
        """
        record = CorpusRecord.model_validate(self.corpus.record)
        train = self.settings.train
        return fixed_mixture(
            dict(zip(self.corpus.domains, weights.tolist(), strict=True)),
            tokenizer=record.tokenizer,
            domains=[
                large_domain(domain) if whole else domain.as_domain()
                for domain in record.domains
                if domain.role == "domain"
            ],
            total_tokens=len(self.corpus.domains) * train.rows_per_domain * train.steps * self.corpus.row_tokens,
            method="search",
            seed=self.settings.seed,
        )

    def _train(self, mixture: Mixture, seed: int, label: str) -> tuple[FixedRun, list[Segment], Tensor]:
        settings = self.settings.model_copy(update={"seed": seed})
        rows = sampled_rows(settings, self.corpus, self.place, mixture)
        run = fixed_run(settings, self.corpus, self.place, rows)
        with _named(label):
            segments, theta = run.train(self.plan, on_step=partial(self.on_step, label, 1))
        return run, segments, theta

    def _pull_back(self, run: FixedRun, segments: list[Segment], theta: Tensor, label: str) -> pd.DataFrame:
        _, end = self.held_out.measure(run.unrolled.weights, theta, [self.objective])
        steps = []
        with _named(label):
            for step in run.pull_back(segments, end):
                self.on_step(label, 2)
                steps.append(step)
        parts = [
            pd.DataFrame(
                {
                    "step": step.step + 1,
                    "domain": list(self.corpus.domains),
                    "effect": step.domains[0].double().numpy(),
                    "norm": float(step.norms[0]),
                }
            )
            for step in reversed(steps)
        ]
        return pd.concat(parts, ignore_index=True)

    def _folder(self, number: int) -> Path:
        return self.settings.run_path / "rounds" / f"{number:02d}"

    def _read(self, path: Path) -> pd.DataFrame | None:
        """Return a finished table, in every process; None if it is not there, or not finished."""

        def read() -> pd.DataFrame | None:
            if not path.exists() or path.name not in read_sums(path.parent, run_id=self.run_id):
                return None  # written but not named: the search was killed in between
            require_whole(path, run_id=self.run_id, remedy="remove it, and it is computed again")
            return pd.read_parquet(path)

        return decide(read, self.accelerator)

    def _require_same(self, number: int, mixture: Mixture) -> None:
        """Check that a round that was measured before was measured at this mixture. Raises UserError."""
        path, now = self._folder(number) / "mixture.json", mixture.stages[0].weights
        if path.name not in read_sums(path.parent, run_id=self.run_id) or not path.exists():
            return
        require_whole(path, run_id=self.run_id, remedy=f"remove {path.parent}, and it is measured again")
        before = Mixture.load(path).stages[0].weights
        if not np.allclose([before[name] for name in now], list(now.values()), rtol=0, atol=SAME):
            raise UserError(
                f"round {number} was measured at another mixture than the rounds before it give now: their files "
                f"changed; remove {path.parent} and the folders of later rounds, and they are measured again"
            )

    def _save(self, path: Path, write: Callable[[Path], object]) -> None:
        """Write a file of a round, by the main process, and name it in the round's sums."""
        if self.accelerator.is_main_process:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path)
            add_sums(path.parent, [path.name], run_id=self.run_id, new=not (path.parent / SUMS).exists())


def large_domain(domain: CorpusDomain) -> Domain:
    """Return a domain as the large run has it: uncut, or with the unique tokens that the settings give for it."""
    if domain.elsewhere is not None:  # another text, whose other facts are not known
        return Domain(name=domain.name, unique_tokens=domain.elsewhere)
    return domain.uncut.as_domain()


@contextmanager
def _named(label: str) -> Iterator[None]:
    """Put the proxy's name before the message of a UserError of the block."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{label}: {error}") from error


def _write_table(table: pd.DataFrame, path: Path) -> None:
    write_atomic(path, table.to_parquet(index=False))
