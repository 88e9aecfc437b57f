"""The geometry of an increment: every measure beside its null and its floor."""
