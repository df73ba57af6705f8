"""Programs that keep a model loaded and answer people."""
