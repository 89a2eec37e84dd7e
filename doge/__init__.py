"""The mathematics: gradient alignment between domains from one backward pass. torch only; no files, devices or settings.

rules.py      gradient of every group of rows, by layer type
grouped.py    one backward pass over all groups
gram.py       inner products between the groups' gradients
updates.py    from the gram to domain weights: stable, paper, official, uniform
doremi.py     from excess losses over a reference model to domain weights
algorithm.py  a whole step of DoGE, top to bottom
verify.py     the layer rules against autograd, on the model and rows at hand
"""

from doge.algorithm import GroupGradients, MicroBatch, Step
from doge.gram import Gram, domain_gram
from doge.grouped import NoRuleError, row_losses, token_losses
from doge.updates import PRESETS, Constants, Decision, State, start, update
from doge.verify import verify

__all__ = [
    "PRESETS",
    "Constants",
    "Decision",
    "Gram",
    "GroupGradients",
    "MicroBatch",
    "NoRuleError",
    "State",
    "Step",
    "domain_gram",
    "row_losses",
    "start",
    "token_losses",
    "update",
    "verify",
]
