"""The chat page at `/` and the routes that serve it."""
