"""What a run costs: memory before it starts, speed while it runs."""
