"""The version of this package, as `pyproject.toml` and every written record have it."""

VERSION = "0.1.0"
