"""How sure learned weights are, in words."""

from mixtures.schedule.records import Uncertainty


def interval_text(interval: tuple[float, float]) -> str:
    """`0.1021-0.1530`."""
    return f"{interval[0]:.4f}-{interval[1]:.4f}"


def source_text(record: Uncertainty) -> str:
    """Where the intervals come from, and what they do not hold."""
    steps = f"{record.replicates} draws of the steps in blocks"
    if record.runs == 1:
        return f"95 %, from {steps}; another seed may differ by more, give several runs to hold that too"
    return f"95 %, from the spread of {record.runs} runs" + (f" and {steps}" if record.replicates else "")


def departure_text(record: Uncertainty) -> str:
    """Do the runs support a departure from the prior, and how far was it shrunk?"""
    kind = "uniform prior" if max(record.prior.values()) - min(record.prior.values()) < 1e-9 else "prior"
    signals = ", ".join(f"{signal:.3g}" for signal in record.signal)
    needed = ", ".join(f"{needed:.3g}" for needed in sorted(set(record.needed)))
    found = f"signal to noise {signals} ({needed} needed)"
    if not record.mean:
        return f"not shrunk; {found} against the {kind}"
    if not any(record.factor):
        return f"{found}: this supports no departure from the {kind}, the weights are the prior"
    factors = ", ".join(f"{factor:.3g}" for factor in record.factor)
    stages = "" if len(record.factor) == 1 else " stage by stage" + (", 0: the prior itself" if 0 in record.factor else "")
    return f"{found}: log-ratios to the {kind} multiplied by {factors}{stages}"
