"""Where the gradients of forget and retain problems meet the increment."""
