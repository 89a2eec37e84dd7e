"""The exact effect of domains and rows on the loss at a proxy's end: `doge.adjoint` for a run's text, model and steps.

fixed      a proxy run with given domain weights, as a function of them
objective  held-out rows of the objective: their losses, and the gradients that are pulled back
memory     how many states and graphs are kept, and what memory that takes
"""
