"""What is classified: tasks, readers of files and of the Hub, the built-in tasks."""
