"""A checkpoint brought to life: likelihood, divergence, gradients, hooked views, weights swapped in place."""
