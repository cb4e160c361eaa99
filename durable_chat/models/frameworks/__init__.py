"""Agent frameworks as models: their events as chunks. No framework is imported; objects are read by their fields."""
