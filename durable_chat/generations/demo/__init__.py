"""
The demo adapters, which need no key and no network, and make real files.
"""
