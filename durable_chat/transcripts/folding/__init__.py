"""Fold chunks to messages, with the same result as TanStack AI's own client."""
