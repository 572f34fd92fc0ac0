"""The Studio: prompts tried on pictures."""
