"""Cards: what a result says at first glance, in a notebook and on a terminal."""
