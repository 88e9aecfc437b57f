"""Forget and retain problems: read, checked, asked, tokenised, batched."""
