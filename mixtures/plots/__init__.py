"""PNGs of runs, mixtures, scores and comparisons."""
