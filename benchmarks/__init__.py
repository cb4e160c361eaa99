"""What `scripts/bench` runs: the same loads against this server and others, in turns, on one machine."""
