"""A proxy that keeps everything from which the estimators of the study are computed: products of every kind, later
models, forks.

    python benchmarks/estimator_log.py runs/estimators/balanced-swarm.yaml -o runs/estimators/log-balanced-0.npz [--seed
    0] [--steps 400]

The proxy trains on all domains alike. Groups of a step: the D training domains and M targets (rows in two halves), and
D groups of held-out rows that the base runs are not evaluated on. Kept, float64 (S steps):

    lr (S,); KIND (S, 2(D+M)+D, 2(D+M)+D): products of the gradients of first halves, second halves, held-out groups,
    the second one
    in a geometry: raw, plain; adam, divided by sqrt(v) + eps; damped, by sqrt(v) + a tenth of its mean over the
    parameter; fisher, by v + a tenth of its mean; kfac and kfac_half, multiplied by the inverse of the Kronecker
    factors of the gradients' second moment, and by its root
    ahead_KIND (W, W, D, D+M): lr-weighted sum of domain j's gradients over window w of the steps, with the held-out
    gradient of i at the end of window w' (zero for w' < w)
    forks (C, H, D, D+M): at C checkpoints, for H horizons, held-out loss of i with domain j's odds raised minus that
    without losses (W, D+M): held-out loss at the end of every window
    rows_trained: rows that the run and its forks trained on

A fork takes the same rows as its unpushed twin, weighted: only the weights differ. All held-out losses here are over 32
rows a domain, of the part that the base runs are not evaluated on (targets: of their training text, which nothing
trains on).
"""

import argparse
import copy
import time
from pathlib import Path

import numpy as np
import torch
from estimator_settings import ODDS, pushed_mixture
from torch import Tensor, nn

import doge
from doge.grouped import Use, grouped_backward
from doge.rules import Sum
from mixtures.stream.tokens import as_rows
from proxies.comparison.settings import CompareSettings
from proxies.config import load
from proxies.corpus.batches import evaluated_part, step_rows
from proxies.corpus.corpus import CorpusData, prepare
from proxies.models import build_model, optimization
from proxies.settings import Train

WINDOWS = 16
HORIZONS = (5, 15, 40)
CHECKPOINTS = (0.25, 0.6)  # share of the steps after which the proxy is forked
HALF = 2  # rows of a half-group
MEASURED = 32  # held-out rows of a domain that a fork is measured on


class Study:
    """The text of a setting and a proxy on it."""

    def __init__(self, settings: CompareSettings, corpus: CorpusData, *, seed: int, steps: int, lr: float) -> None:
        self.corpus, self.seed, self.steps = corpus, seed, steps
        self.domains, self.targets = list(corpus.domains), list(corpus.targets)
        self.length = corpus.row_tokens
        sizes = {"vocab_size": corpus.vocab_size, "eos_id": corpus.eos_id, "row_tokens": corpus.row_tokens}
        self.model = build_model(settings.model, **sizes, seed=1_000 + seed)
        train = Train(steps=steps, lr=lr, min_lr=lr / 10, warmup_steps=30)
        self.optimizer, self.scheduler = optimization(self.model, train)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.offsets = dict(
            zip(self.parameters, np.cumsum([0, *(p.numel() for p in self.parameters)]).tolist(), strict=False)
        )
        self.size = sum(p.numel() for p in self.parameters)
        self.left = {name: self._held_out(name) for name in self.domains}
        self.left |= {name: corpus.tokens[name] for name in self.targets}

    def _held_out(self, name: str) -> np.ndarray:
        held_out = self.corpus.held_out[name]
        rows = len(held_out) // self.length
        left = held_out[evaluated_part(rows, 64) * self.length :]
        return left if len(left) >= self.length else held_out

    def rows(self, step: int, *, held_out: bool) -> Tensor:
        """The rows of a step, group-major: domains (and targets) from their training text, or the domains' held-out
        rows.
        """
        names = self.domains if held_out else [*self.domains, *self.targets]
        texts = self.left if held_out else self.corpus.tokens
        kind = "held_out" if held_out else "train"
        parts = [
            step_rows(
                texts[n],
                seed=self.seed,
                domain=f"{n}@{kind}",
                step=step,
                rows_per_step=2 * HALF,
                row_tokens=self.length,
            )
            for n in names
        ]
        return torch.from_numpy(np.concatenate(parts))

    def gradients(self, rows: Tensor, groups: int) -> Tensor:
        """(groups, P) gradients of the groups' mean token losses."""
        found = torch.zeros(groups, self.size)

        def on_parameter(parameter: nn.Parameter, uses: list[Use]) -> None:
            total = Sum(torch.empty(groups, *parameter.shape), fresh=True)
            for use in uses:
                use.add(total, slice(0, parameter.shape[0]))
            start = self.offsets[parameter]
            found[:, start : start + parameter.numel()] = total.value.flatten(1)

        grouped_backward(self.model, rows, groups=groups, on_parameter=on_parameter)
        return found

    def second_moment(self) -> Tensor:
        """(P,) v of Adam, its bias corrected; ones before its first step."""
        parts = []
        for parameter in self.parameters:
            state = self.optimizer.state.get(parameter)
            if not state:
                return torch.ones(self.size)
            parts.append((state["exp_avg_sq"] / (1 - 0.999 ** state["step"].item())).flatten())
        return torch.cat(parts)

    def spread(self, values: Tensor) -> Tensor:
        """(P,) a tenth of every parameter's mean of `values` (P,), at each of its entries."""
        parts = values.split([p.numel() for p in self.parameters])
        return torch.cat([(0.1 * part.mean()).expand(len(part)) for part in parts])

    def descend(self, gradient: Tensor) -> None:
        """A step of the proxy with this gradient (P,), clipped to norm 1."""
        for parameter in self.parameters:
            start = self.offsets[parameter]
            parameter.grad = gradient[start : start + parameter.numel()].view(parameter.shape).clone()
        torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
        self.optimizer.step()
        self.scheduler.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def measured(self) -> Tensor:
        """(D+M,) mean held-out loss."""
        losses = []
        for name in [*self.domains, *self.targets]:
            rows = as_rows(self.left[name], self.length)
            chosen = np.linspace(0, len(rows) - 1, min(MEASURED, len(rows))).astype(int)
            losses.append(doge.row_losses(self.model, torch.from_numpy(rows[chosen].astype(np.int64))).double().mean())
        return torch.stack(losses)

    def fork(self, step: int, weights: np.ndarray) -> Tensor:
        """(H, D+M) held-out losses at each horizon after going on from here with these weights; the proxy is as before
        afterwards.
        """
        kept = copy.deepcopy((self.model.state_dict(), self.optimizer.state_dict(), self.scheduler.state_dict()))
        factors = torch.from_numpy(weights).float()
        found = []
        for ahead in range(1, max(HORIZONS) + 1):
            rows = self.rows(step + ahead - 1, held_out=False)[: len(self.domains) * 2 * HALF]
            losses = doge.row_losses(self.model, rows).view(len(self.domains), -1).mean(1)
            (losses * factors).sum().backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            self.optimizer.step()
            self.scheduler.step()
            self.optimizer.zero_grad()
            if ahead in HORIZONS:
                found.append(self.measured())
        self.model.load_state_dict(kept[0])
        self.optimizer.load_state_dict(kept[1])
        self.scheduler.load_state_dict(kept[2])
        return torch.stack(found)


class Kronecker:
    """Factors of the second moment of the gradients (p, d) of every matrix: L (p, p), or its diagonal where p is large,
    and R (d, d).
    """

    def __init__(self, study: Study) -> None:
        self.study = study
        self.factors = [
            (torch.zeros(p.shape[0], *p.shape[:1] * (p.shape[0] <= 512)), torch.zeros(p.shape[-1], p.shape[-1]))
            for p in study.parameters
        ]
        self.count = 0

    def add(self, gradients: Tensor) -> None:
        """Take gradients (G, P) into the running means."""
        self.count += 1
        keep = min(0.95, 1 - 1 / self.count)
        for (left, right), parameter, part in zip(
            self.factors, self.study.parameters, self.parts(gradients), strict=True
        ):
            if parameter.ndim < 2:
                left.mul_(keep).add_(
                    torch.diag_embed(part.square().mean(0)) if left.ndim == 2 else part.square().mean(0), alpha=1 - keep
                )
                continue
            now = torch.einsum("gpd,gqd->pq", part, part) if left.ndim == 2 else part.square().sum((0, 2))
            left.mul_(keep).add_(now / len(part), alpha=1 - keep)
            right.mul_(keep).add_(torch.einsum("gpd,gpe->de", part, part) / len(part), alpha=1 - keep)

    def parts(self, gradients: Tensor) -> list[Tensor]:
        """The gradients (G, P) of every parameter, (G, *shape)."""
        sizes = [p.numel() for p in self.study.parameters]
        return [
            part.unflatten(1, p.shape) for part, p in zip(gradients.split(sizes, 1), self.study.parameters, strict=True)
        ]

    def roots(self) -> None:
        """Take the factors' inverses from their eigenvalues, damped with a tenth of their mean."""
        self.inverses = []
        for (left, right), parameter in zip(self.factors, self.study.parameters, strict=True):
            scale = (left.trace() if left.ndim == 2 else left.sum()).item()
            sides = (left,) if parameter.ndim < 2 else (left, right)
            self.inverses.append((scale, [self._damped(side) for side in sides]))

    def _damped(self, side: Tensor) -> tuple[Tensor, Tensor | None]:
        values, vectors = (side, None) if side.ndim == 1 else torch.linalg.eigh(side)
        return values.clamp(min=0) + 0.1 * values.mean() + 1e-20, vectors

    def apply(self, gradients: Tensor, power: float) -> Tensor:
        """The gradients (G, P) multiplied by the second moment to the -power."""
        found = []
        for part, (scale, sides) in zip(self.parts(gradients), self.inverses, strict=True):
            matrix = part if part.ndim == 3 else part.unsqueeze(2)
            for axis, (values, vectors) in enumerate(sides):
                side = values.pow(-power)
                if axis == 0:
                    matrix = side[:, None] * matrix if vectors is None else (vectors * side) @ (vectors.T @ matrix)
                else:
                    assert vectors is not None
                    matrix = (matrix @ vectors * side) @ vectors.T
            found.append(matrix.flatten(1) * (scale**power if part.ndim == 3 else 1))
        return torch.cat(found, 1)


def main() -> None:
    """One logged run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("yaml", type=Path)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--no-forks", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    settings = load(CompareSettings, arguments.yaml)
    study = Study(
        settings,
        prepare(settings.text, Path(settings.text.cache_dir), settings.draws),
        seed=arguments.seed,
        steps=arguments.steps,
        lr=settings.train.lr,
    )
    began = time.time()
    kept = log(study, forks=not arguments.no_forks)
    np.savez_compressed(
        arguments.output, domains=study.domains, targets=study.targets, seconds=time.time() - began, **kept
    )


def log(study: Study, *, forks: bool) -> dict[str, np.ndarray]:
    """Train the proxy and keep the arrays that the module lists."""
    domains, groups = len(study.domains), len(study.domains) + len(study.targets)
    window = study.steps // WINDOWS
    uniform = np.full(domains, 1 / domains)
    kinds = ("raw", "adam", "damped", "fisher", "kfac", "kfac_half")
    sums = {kind: torch.zeros(WINDOWS, domains, study.size) for kind in kinds}
    factors = Kronecker(study)
    ahead = {kind: np.zeros((WINDOWS, WINDOWS, domains, groups)) for kind in sums}
    products: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
    rates, losses, differences = [], [], []
    forked = {int(share * study.steps) for share in CHECKPOINTS} if forks else set()
    trained = 0
    for step in range(study.steps):
        if step in forked:
            base = study.fork(step, uniform)
            pushed = [study.fork(step, pushed_mixture(uniform, domain, ODDS)) for domain in range(domains)]
            differences.append(torch.stack([losses - base for losses in pushed], dim=1).numpy())
            trained += (domains + 1) * max(HORIZONS) * domains * 2 * HALF
        rate = float(study.scheduler.get_last_lr()[0])
        halves = study.gradients(
            study.rows(step, held_out=False), 2 * groups
        )  # group-major: both halves of a group are neighbours
        held_out = study.gradients(study.rows(step, held_out=True), domains)
        factors.add(halves)
        if step % window == 0 or step in (1, 3, 8):
            factors.roots()
        moment = study.second_moment()
        geometry = {
            "raw": lambda x: x,
            "adam": lambda x, m=moment: x / (m.sqrt() + 1e-8),
            "damped": lambda x, m=moment: x / (m.sqrt() + study.spread(m.sqrt())),
            "fisher": lambda x, m=moment: x / (m + 0.1 * m.mean()),
            "kfac": lambda x: factors.apply(x, 1),
            "kfac_half": lambda x: factors.apply(x, 0.5),
        }
        every = torch.cat([halves[0::2], halves[1::2], held_out])
        place = min(step // window, WINDOWS - 1)
        for kind, changed in geometry.items():
            other = changed(every)
            products[kind].append((every @ other.T).double().numpy())
            sums[kind][place] += rate * (other[:domains] + other[groups : groups + domains]) / 2
        mean = (halves[0::2] + halves[1::2])[:domains] / 2
        study.descend(mean.mean(0))
        trained += domains * 2 * HALF
        rates.append(rate)
        if (step + 1) % window == 0:
            later = torch.stack(
                [study.gradients(study.rows(100_000 + step * 4 + k, held_out=True), domains) for k in range(4)]
            ).mean(0)
            if study.targets:
                more = [
                    study.gradients(study.rows(100_000 + step * 4 + k, held_out=False), 2 * groups) for k in range(2)
                ]
                later = torch.cat([later, torch.stack(more).mean(0).unflatten(0, (groups, 2)).mean(1)[domains:]])
            for kind, total in sums.items():
                for before in range(place + 1):
                    ahead[kind][before, place] = (total[before] @ later.T).double().numpy()
            losses.append(study.measured().numpy())
            print(f"step {step + 1}: mean held-out loss {losses[-1][:domains].mean():.4f}", flush=True)
    kept = {f"{kind}": np.array(values) for kind, values in products.items()} | {
        f"ahead_{kind}": values for kind, values in ahead.items()
    }
    return kept | {
        "lr": np.array(rates),
        "losses": np.array(losses),
        "forks": np.array(differences),
        "rows_trained": np.array(trained),
    }


if __name__ == "__main__":
    main()
