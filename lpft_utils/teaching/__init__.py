"""What a chapter holds besides results: its frame, its exercises."""
