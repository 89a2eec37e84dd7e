"""Regression on a swarm of mixtures: predict what was measured from the shares, and find the best prediction.

fit.py          everything in one call: from a swarm's tables to the best mixture
swarm.py        reading a swarm: the mixtures that were tried, and what was measured of each
surrogate.py    a surrogate of the measurements, and its best mixture within what was tried
regressions.py  the regressions: ridge, law and boosting
validation.py   cross-validation of the predictions
hull.py         the search for the lowest value among combinations of the mixtures tried
optimum.py      the best mixture beside simple ones, its bounds, and whether to trust it
text.py         a fit in words
"""
