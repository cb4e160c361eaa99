"""Generations over HTTP: images, speech, transcripts, summaries and videos, as runs of the sessions of slots."""
