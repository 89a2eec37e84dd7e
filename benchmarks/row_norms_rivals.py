"""Other packages' squared gradient norms a row, for row_norms.py: each asked for the whole model, exactly, as far as it
goes.

A rival is a function (model, twin, length) -> (rows -> norms (R,)); `model` is its own copy, `twin` the same with
untied embeddings, `length` the tokens of a row. Sizes of batches are from one trial of several (docs/row_norms.md).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

Norms = Callable[[Tensor], Tensor]
SOME = {32: 16, 128: 8, 512: 2}  # rows of this many tokens that torch.func takes at once
FEW, PROJECTED = 2, 16  # rows that dattri takes, without its projection and with it


@dataclass(frozen=True)
class Rival:
    """`covers`: what it computes, a key of row_norms.reference. `slow`: it gets one batch of rows. `only`: its one
    case.
    """

    make: Callable[[nn.Module, nn.Module, int], Norms]
    covers: str = "all"
    package: str | None = None
    attention: str = "sdpa"
    slow: bool = False
    only: tuple[str, int] | None = None

    @property
    def batch(self) -> int:
        """Rows of its batches, if it is slow."""
        return FEW if self.only is None else PROJECTED


def row_means(logits: Tensor, rows: Tensor) -> Tensor:
    """Mean token loss of every row."""
    labels = F.pad(rows[:, 1:], (0, 1), value=-100)
    nll = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none")
    return nll.view(rows.shape).sum(1) / (rows.shape[1] - 1)


def in_batches(norms: Norms, size: int) -> Norms:
    """The same, `size` rows at a time."""
    return lambda rows: torch.cat([norms(part) for part in rows.split(size)])


def loop(model: nn.Module, twin: nn.Module, length: int) -> Norms:
    """One backward pass a row."""

    def norm(row: Tensor) -> Tensor:
        gradients = torch.autograd.grad(row_means(model(input_ids=row).logits, row)[0], list(model.parameters()))
        return torch.stack([g.flatten().dot(g.flatten()) for g in gradients]).sum()[None]

    return in_batches(norm, 1)


def vmap(model: nn.Module, twin: nn.Module, length: int) -> Norms:
    """torch.func: vmap(grad)."""
    parameters = {name: p.detach() for name, p in model.named_parameters()}

    def loss(values: dict[str, Tensor], row: Tensor) -> Tensor:
        logits = torch.func.functional_call(model, values, kwargs={"input_ids": row[None]}).logits
        return row_means(logits, row[None])[0]

    def norm(row: Tensor) -> Tensor:
        return sum(g.square().sum() for g in torch.func.grad(loss)(parameters, row).values())

    return torch.func.vmap(norm, chunk_size=SOME[length])


def opacus(model: nn.Module, twin: nn.Module, length: int, *, ghost: bool = False) -> Norms:
    """Fast gradient clipping: every layer's row gradients are formed, and their norms kept. It adds up both uses of a
    tied parameter.
    """
    from opacus.grad_sample import GradSampleModuleFastGradientClipping

    wrapped = GradSampleModuleFastGradientClipping(
        twin if ghost else model, loss_reduction="sum", use_ghost_clipping=ghost, max_grad_norm=1.0, strict=False
    )

    def norms(rows: Tensor) -> Tensor:
        wrapped.zero_grad(set_to_none=True)
        row_means(wrapped(input_ids=rows).logits, rows).sum().backward()
        return wrapped.get_norm_sample().square()

    return in_batches(norms, 32)


def opacus_ghost(model: nn.Module, twin: nn.Module, length: int) -> Norms:
    """Ghost clipping; it refuses tied parameters, so the twin is asked."""
    return opacus(model, twin, length, ghost=True)


def kronfluence(model: nn.Module, twin: nn.Module, length: int) -> Norms:
    """Self-influence with the identity for a preconditioner; linear layers only."""
    from kronfluence.analyzer import prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments
    from kronfluence.score.self import compute_self_scores_with_loaders
    from kronfluence.task import Task
    from kronfluence.utils.state import State

    class Language(Task):
        def compute_train_loss(self, batch: Any, model: nn.Module, sample: bool = False) -> Tensor:
            return row_means(model(input_ids=batch[0]).logits, batch[0]).sum()

        def compute_measurement(self, batch: Any, model: nn.Module) -> Tensor:
            raise NotImplementedError

    task = Language()
    prepared = prepare_model(model, task)

    def norms(rows: Tensor) -> Tensor:
        return compute_self_scores_with_loaders(
            loaded_factors={},
            model=prepared,
            state=State(cpu=True),
            task=task,
            train_loader=DataLoader(TensorDataset(rows), batch_size=16),
            score_args=ScoreArguments(),
            factor_args=FactorArguments(strategy="identity"),
            tracked_module_names=None,
            disable_tqdm=True,
        )["all_modules"]

    return norms


def bergson(model: nn.Module, twin: nn.Module, length: int) -> Norms:
    """Its collector of row gradients without projection, squared here; linear layers only."""
    from bergson.collector.gradient_collectors import StreamingGradientCollector

    model.requires_grad_(False)
    model.get_input_embeddings().requires_grad_(True)  # type: ignore[operator]  # as it does itself, to reach the hooks

    def norms(rows: Tensor) -> Tensor:
        model.zero_grad(set_to_none=True)
        collector = StreamingGradientCollector(model=model, dtype=torch.float32)
        with collector.with_batch():
            row_means(model(input_ids=rows).logits, rows).sum().backward()
        return sum(g.square().sum(1) for g in collector.mod_grads.values())

    return in_batches(norms, 16)


def captum(model: nn.Module, twin: nn.Module, length: int) -> Norms:
    """TracInCP at one checkpoint. It passes back through the whole batch for every row, so batches of one."""
    from captum.influence import TracInCP

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, rows: Tensor) -> Tensor:
            return self.model(input_ids=rows).logits

    def norms(rows: Tensor) -> Tensor:
        tracin = TracInCP(
            Logits(), TensorDataset(rows, rows), ["none"], lambda model, path: 1.0, loss_fn=row_means, batch_size=1
        )
        return tracin.self_influence()

    return norms


def dattri(model: nn.Module, twin: nn.Module, length: int, *, projected: bool = False) -> Norms:
    """TracIn at one checkpoint, the default projection to 512 dimensions taken out (no argument does: None means the
    default).
    """
    from dattri.algorithm.tracin import TracInAttributor
    from dattri.task import AttributionTask

    def loss(values: dict[str, Tensor], data: tuple[Tensor]) -> Tensor:
        row = data[0][None]
        return row_means(torch.func.functional_call(model, values, kwargs={"input_ids": row}).logits, row)[0]

    task = AttributionTask(loss_func=loss, model=model, checkpoints=model.state_dict())
    attributor = TracInAttributor(task, weight_list=torch.ones(1), normalized_grad=False)
    if not projected:
        attributor.projector_kwargs = None
    size = PROJECTED if projected else FEW
    return lambda rows: attributor.self_attribute(DataLoader(TensorDataset(rows), batch_size=size))


def dattri_projected(model: nn.Module, twin: nn.Module, length: int) -> Norms:
    """As it comes; the projection is drawn again for every batch, so one large batch."""
    return dattri(model, twin, length, projected=True)


RIVALS = {
    "vmap(grad)": Rival(vmap, attention="eager"),
    "loop": Rival(loop),
    "opacus": Rival(opacus, package="opacus"),
    "opacus ghost": Rival(opacus_ghost, covers="untied", package="opacus"),
    "kronfluence": Rival(kronfluence, covers="linear", package="kronfluence"),
    "bergson": Rival(bergson, covers="linear", package="bergson"),
    "captum": Rival(captum, package="captum"),
    "dattri": Rival(dattri, package="dattri", attention="eager", slow=True),
    "dattri projected": Rival(dattri_projected, package="dattri", attention="eager", slow=True, only=("4M", 128)),
}
