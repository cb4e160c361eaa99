"""
The doors: one module for each kind of frontend. Nothing outside this folder knows a frontend.
"""
