"""Generation of responses and grading of their answers."""
