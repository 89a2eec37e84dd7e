"""Every setting of a search: those of a proxy run (`proxies.settings`), and the block `search`."""

from collections.abc import Iterator

from pydantic import Field, model_validator

from proxies.config import Frozen
from proxies.settings import Settings


class Search(Frozen):
    """The rounds of a search."""

    rounds: int = Field(6, ge=1, description="most rounds after the first, which measures the prior")
    seeds: int = Field(
        2, ge=1, description="proxies per round, with the seeds `seed`, `seed` + 1, ...; one gives no intervals"
    )
    radius: float = Field(
        0.05, gt=0, allow_inf_nan=False, description="KL divergence of the second round's mixture from the prior (nats)"
    )
    objective_rows: int = Field(
        64, ge=2, description="held-out rows of every domain and target that the objective is measured on (rows)"
    )
    memory: float = Field(
        4.0,
        gt=0,
        allow_inf_nan=False,
        description="memory of the main processor for the states of a round's runs, per process; less costs time (GB)",
    )


class SearchSettings(Settings):
    """All settings of a search. `proxies.search RUN.yaml --section.key value` overrides single ones."""

    search: Search = Field(Search(), description="the rounds")

    @property
    def draws(self) -> dict[str, int]:
        """{domain or target: number of tokens that the search reads of it}; a proxy may draw all rows from one."""
        tokens = super().draws
        return {
            name: count * (len(self.corpus.domains) if name in self.corpus.domains else 1)
            for name, count in tokens.items()
        }

    @model_validator(mode="after")
    def _usable(self) -> "SearchSettings":
        if faults := list(_faults(self)):
            raise ValueError("; ".join(faults))
        return self


def _faults(settings: SearchSettings) -> Iterator[str]:
    if settings.update.aggregate == "worst":
        yield "update.aggregate is worst, but a search lowers a mean; leave it out"
    if settings.update.preset == "doremi":
        yield "update.preset is doremi, which has no objective; leave it out: a search has no other rule"
    if settings.samples.presence is not None:
        yield "samples.online is presence, which a search cannot use; set it to none"
    if settings.reuse:
        yield "reuse cannot be combined with a search; leave it out"
    if settings.train.tracker != "none":
        yield f"train.tracker is {settings.train.tracker}; a search keeps its record in files: set it to none"
