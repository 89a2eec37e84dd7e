"""Figures of runs, mixtures, scores, comparisons and ladders, also as PNG files.

plot.py        `plot(record)`: the figures of any record, for notebooks and papers
run.py         figures of a run: weights, losses, matrix, mixture
mixture.py     figures of a mixture: shares, and what its sample weights leave of every domain
scores.py      figures of sample scores
comparison.py  figures of a comparison
ladder.py      the figure of a ladder of proxy sizes
matrix.py      the heat map of cosines between the domains' gradients
shares.py      shares as dots with intervals, as bars, or over the tokens of the large run
looks.py       colours and dashes of lines
style.py       sizes, fonts, axes, lines with names, and PNG files
"""
