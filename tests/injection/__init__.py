"""A failure at the k-th change of the file system, for every k, in every command that writes.

``python -m tests.injection`` is the long run; the tests take every k of some commands and drawn ones of the others.
"""
