"""Evaluation: one generation loop, scoring as functions of files, reports, and LLaVA's own programs on top."""
