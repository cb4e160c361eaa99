"""
The chat over HTTP, with one module for each kind of client.
"""
