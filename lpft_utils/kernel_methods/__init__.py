"""What follows from any kernel: statistics, regression, training dynamics."""
