"""assistant-ui: its transport and its runtime on the AI SDK's messages."""
