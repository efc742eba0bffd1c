"""One module a kind of figure, one style."""
