"""The text of a run: from files and datasets to rows of tokens."""
