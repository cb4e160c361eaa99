"""Who writes the log: sessions, turns, runs, leases and recovery."""
