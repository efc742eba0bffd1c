"""What is classified: tasks, readers of files and of the Hub, the synthetic task."""
