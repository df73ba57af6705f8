"""Projectors from the vision tower's width to the language model's."""
