"""Damaged and hostile inputs for every reader: seeded, bounded, each in a worker under a memory limit and a timer.

``python -m tests.fuzz --inputs 10000`` is the long run; the tests make 500, and replay ``corpus``: what once failed.
"""
