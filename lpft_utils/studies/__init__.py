"""What one chapter computes on its task."""
