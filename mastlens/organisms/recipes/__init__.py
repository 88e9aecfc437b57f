"""What a lineage is built from: one frozen recipe a file, whose defaults made the shipped lineage."""
