"""Layouts of benchmarks, one a file. A new one is one file here, or a class that is registered."""
