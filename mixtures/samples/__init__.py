"""Scores of documents, and the weights inside domains that are made of them."""
