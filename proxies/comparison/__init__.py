"""Base models trained on several mixtures, and their comparison.

settings.py    every setting of a comparison
run.py         a whole comparison: learn mixtures, train base models, write tables and plots
contenders.py  the mixtures that are compared: from fixed rules, files and proxy runs
base.py        one base model: its training and its held-out losses
records.py     the files in a comparison's directory, and checks that results of different settings do not mix
costs.py       seconds and floating-point operations of learning a mixture and of training a base model
"""
