"""What the weights and gradients say: increments, their geometry, and their coupling. Tables out."""
