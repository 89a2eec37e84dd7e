"""Proxy models in training."""
