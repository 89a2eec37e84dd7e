"""Scores of the documents in a run's corpus, computed with the run's own model."""
