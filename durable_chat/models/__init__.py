"""Models, agents and tools."""
