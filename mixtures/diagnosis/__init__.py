"""How far a run's weights can be trusted: findings from its records, and a comparison of several proxy sizes.

diagnosis.py    all findings of a run, as data and as text; RUN_DIR/diagnosis.json
finding.py      one finding, and how names are listed in it
weights.py      findings about the weights and the steps
gradients.py    findings from the recorded gradient products
matrix.py       cosines between the domains' gradients, and their noise
repetition.py   findings about how often text is repeated
noise.py        standard errors of means over a run, from blocks of steps
ladder.py       runs of several proxy sizes: agreement, trend and extrapolation
ladder_text.py  that comparison as text
"""

from mixtures.diagnosis.diagnosis import diagnose

__all__ = ["diagnose"]
