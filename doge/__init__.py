"""The mathematics: gradient alignment between domains from one backward pass. torch only; no files, devices or
settings.

rules.py      gradient of every group of rows, by layer type
grouped.py    one backward pass over all groups
gram.py       inner products between the groups' gradients
row_norms.py  self-influence: every row's squared gradient norm, without its gradient
row_products.py  rows against rows, against a gradient, word by word
scopes.py     which parameters a score looks at
updates.py    from the gram to domain weights: paper, official, uniform, and the running sums of stable
stable.py     the default rule, and how its weights would vary with other steps
doremi.py     from excess losses over a reference model to domain weights
algorithm.py  a whole step of DoGE, top to bottom
presence.py   sample weights inside domains, from each step's gradient norms
verify.py     the layer rules against autograd, on the model and rows at hand
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
