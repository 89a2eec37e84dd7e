"""The rows that a trainer reads: any mixture, any number of ranks, exact shares of tokens.

stream.py     MixtureStream: rows of token ids for one rank, with a state to resume from
plan.py       which domain each row comes from, and what happens when a domain is used up
apportion.py  the order of the domains that keeps every domain within one row of its share
shuffle.py    a shuffled order of any size, computed from a key and never stored
policy.py     the text of every epoch of a domain with a sample policy
cached.py     a directory of the token cache, and whether its files changed
tokens.py     the tokens of a domain on disk or in memory, and whether they are the mixture's text
"""

from mixtures.stream.stream import MixtureStream

__all__ = ["MixtureStream"]
