"""Base models trained on several mixtures, compared in numbers and words.

directory.py   reading a comparison's directory
tables.py      the held-out losses of all runs, checked and turned into arrays
statistics.py  paired differences between mixtures, with 95 % intervals
comparison.py  the comparison of all mixtures with a baseline
cells.py       its tables as cells, and how numbers are written
text.py        the comparison in words: tables, verdicts and notes
"""
