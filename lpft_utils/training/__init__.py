"""How a run is trained: its spec, the methods, linear probing, fine-tuning."""
