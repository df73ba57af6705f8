"""Rows of the LLaVA instruction format: reading, masking, batching, sampling."""
