"""Runs: from a posted turn to its end, and who may start one."""
