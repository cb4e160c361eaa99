"""AG-UI: runs as SSE or NDJSON for clients of the protocol."""
