"""One module for each kind of figure, one style."""
