"""The neural tangent kernel: its blocks, its parts P and F, and what follows from them."""
