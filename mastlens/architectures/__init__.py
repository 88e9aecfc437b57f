"""Where q, k, v, o and every other weight matrix live: known models, slices, heads, groups."""
