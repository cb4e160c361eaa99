"""The chat over HTTP, one module for each kind of frontend."""
