"""Benchmarks of unlearning, read as they are published: one layout a file."""
