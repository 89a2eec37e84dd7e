"""The version of this package, the same as in `pyproject.toml` and in every record it writes."""

VERSION = "0.1.0"
