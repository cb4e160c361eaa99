"""A model's answer as chunks that every client folds alike."""
