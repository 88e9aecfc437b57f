"""Scores that the tables do not hold: what each tensor did between SFT and RLVR, measured by a pass of its own."""
