"""AI-Toolkit's captioning service."""
