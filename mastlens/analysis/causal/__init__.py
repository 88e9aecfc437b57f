"""What putting weights back shows: tensors, heads, groups, and whole rankings of them."""
