"""Which process owns a run, and what happens to the runs of one that died."""
