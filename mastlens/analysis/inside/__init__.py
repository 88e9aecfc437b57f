"""From what moved in the weights to what changed in the computation: activations of a pair of models."""
