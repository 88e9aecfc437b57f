"""A whole study from one file: arms at matched forgetting, resumed where it stopped, and the tables of all of them."""
