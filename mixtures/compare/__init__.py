"""Base models trained on several mixtures, in numbers and words."""
