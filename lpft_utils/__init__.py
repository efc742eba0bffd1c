"""Linear probing, then fine-tuning: tasks, classifier, methods, runs and measurements of the book."""
