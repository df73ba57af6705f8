"""Vision towers: pixel tiles in, tokens with their places out."""
