"""Rules and controls: every one that a module here defines is found by its name (``selection.catalogue``)."""
