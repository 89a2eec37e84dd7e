"""The mathematics of DoGE: gradient alignment between domains, computed from one backward pass.

The package needs torch only. It reads no files, chooses no devices and knows no settings.

rules.py         the gradient of every group of rows: one rule per layer type
grouped.py       one backward pass that gives the gradients of all groups
gram.py          inner products between the groups' gradients
row_norms.py     self-influence: every row's squared gradient norm, without forming the row's gradient
row_products.py  inner products of row gradients: with other rows, with a given gradient, or token by token
scopes.py        named sets of parameters that a score is computed over
updates.py       from the gram to domain weights: the presets paper, official, uniform and stable
stable.py        the formulas of the default preset, and a bootstrap over the steps of a run
doremi.py        DoReMi: from excess losses over a reference model to domain weights
algorithm.py     a whole step of DoGE
adjoint.py       the exact effect of every row and step of a run on the loss at its end
presence.py      sample weights inside domains, from each step's gradient norms
verify.py        a comparison of the layer rules with autograd, on a model and rows of your own
"""

from doge.algorithm import GroupGradients, MicroBatch, Step
from doge.gram import Gram, domain_gram
from doge.grouped import NoRuleError, row_losses, token_losses
from doge.presence import Presence, presence_weights
from doge.row_norms import RowScores, row_scores, self_influence
from doge.row_products import WordProducts, mean_gradient, products_with, row_products, unpack, word_products
from doge.scopes import SCOPES
from doge.updates import PRESETS, Constants, Decision, Objective, State, start, update
from doge.verify import verify

__all__ = [
    "PRESETS",
    "SCOPES",
    "Constants",
    "Decision",
    "Gram",
    "GroupGradients",
    "MicroBatch",
    "NoRuleError",
    "Objective",
    "Presence",
    "RowScores",
    "State",
    "Step",
    "WordProducts",
    "domain_gram",
    "mean_gradient",
    "presence_weights",
    "products_with",
    "row_losses",
    "row_products",
    "row_scores",
    "self_influence",
    "start",
    "token_losses",
    "unpack",
    "update",
    "verify",
    "word_products",
]
