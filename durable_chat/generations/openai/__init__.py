"""
The adapters of OpenAI's images, speech, transcription and videos, and of servers with the same API.
"""
