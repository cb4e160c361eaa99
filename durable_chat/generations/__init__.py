"""
Generate images, speech, transcripts, summaries and videos: activities behind adapters, without HTTP, log or sessions.
"""
