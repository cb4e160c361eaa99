"""Convert a session's log of chunks to messages and back, without I/O."""
