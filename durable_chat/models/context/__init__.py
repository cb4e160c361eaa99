"""The model's context in a limit of tokens: measured, summarized and shortened."""
