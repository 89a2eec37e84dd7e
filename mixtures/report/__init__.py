"""One self-contained HTML page about a run or a comparison.

report.py      the page, made from a directory or a record
page.py        the page around its sections: head, navigation, styles and script
run.py         the sections about a run
comparison.py  the sections about a comparison
evidence.py    the records of a run, and its verdict in words
facts.py       cost, provenance and the command to run it again
shares.py      the mixture as table and chart
steps.py       weights, losses and matrix over the steps of a run
samples.py     sample scores, and the documents with the lowest and highest ones
html.py        HTML elements and tables; all text is escaped
svg.py         charts as inline SVG
heat.py        a matrix as coloured cells in inline SVG
"""
