"""The recipes that are shipped, one file each."""
