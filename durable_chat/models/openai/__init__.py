"""OpenAI's models, and those of servers with OpenAI's API."""
