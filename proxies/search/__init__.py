"""The command `proxies.search`: rounds of proxies that measure the objective, and move along its exact slopes.

__main__   the command
settings   its settings: those of a proxy run, and the block `search`
run        a whole search: checks, the corpus, the rounds, the results
rounds     the rounds from the prior on: which mixture is measured next, and which is kept
proxies    the proxies of a round: the objective that they measure, the effects of their domains, and the files of both
rule       the step from slopes to the next mixture, and how far it may go
results    mixture.json, the table of rounds, and the plots
"""
