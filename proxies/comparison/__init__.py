"""Base models trained on several mixtures."""
