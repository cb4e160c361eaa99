"""Where answers come from: the demo model, Anthropic, or an application's own function."""
