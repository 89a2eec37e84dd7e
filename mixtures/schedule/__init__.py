"""mixture.json: the shares of the domains over the tokens of a large run, their bounds, and checks of the file.

mixture.py           Mixture: the whole file, read and written (`python -m` writes mixture.schema.json)
records.py           the parts of the file, as pydantic models
shares.py            mixtures that need no run (uniform, natural, temperature, UniMax), and checks of given shares
uncertainty.py       intervals for learned weights, and how far the weights are shrunk to the prior
constrain.py         the weights closest to the learned ones that keep caps and least shares: the mathematics
bounds.py            caps and least shares as the user asks for them, and messages where they cannot be kept
manifest.py          which documents of a domain are read, and how often: one parquet file per domain
check.py             checks of a mixture.json: everything derived in it is computed again
show.py              text tables of a mixture for the terminal
"""
