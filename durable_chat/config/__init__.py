"""The settings and the values they accept."""
