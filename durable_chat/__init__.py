"""Durable, resumable, multi-device AI chat."""

__version__ = "0.1.0"
