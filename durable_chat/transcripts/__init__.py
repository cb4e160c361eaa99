"""What a session's log says: chunks to messages and back, without I/O."""
