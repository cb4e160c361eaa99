"""The page a person sees at `/`, and what serves it."""
