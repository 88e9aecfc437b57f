"""The lineages inside the package: one file each, which says all that the rest of the package knows of it."""
