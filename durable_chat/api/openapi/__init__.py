"""The OpenAPI description of the chat routes."""
