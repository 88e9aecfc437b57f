"""Process reward models: what a model that judges steps says of each step of a response."""
