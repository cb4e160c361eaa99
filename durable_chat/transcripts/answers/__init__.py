"""Normalize a model's answer into chunks that every client folds to the same messages."""
