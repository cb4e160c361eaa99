"""The writers of the log: sessions, turns, runs, leases and recovery."""
