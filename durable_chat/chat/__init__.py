"""Chat sessions on streams: chunks, snapshots, providers, runs and the routes."""
