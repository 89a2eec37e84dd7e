"""Scores of documents, and the weights inside domains that are made of them.

scores.py     the scores that `proxies.score` writes into a run's directory: read and written
weights.py    from scores to weights: softmax, LinUpper, filter, random control
rule.py       SampleRule: from the scores of a run to a sample policy, with its manifest, on every domain
summary.py    scores in a few numbers per domain, for plots, tables and lists
text.py       the table that is printed after scoring
documents.py  documents.txt: the documents with the highest and lowest scores, with the beginning of their text
"""
