"""Vercel AI SDK 6 and 7, with both of its transports."""
