"""Who answers: providers, agents and tools."""
