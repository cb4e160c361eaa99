"""What the log says of runs: their ends, their interruptions, and the generations among them."""
