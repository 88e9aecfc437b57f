"""A training run by its saved steps."""
