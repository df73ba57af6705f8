"""Benchmarks that a language model judges (LLaVA-Bench, MM-Vet): prompts, endpoint, kept judgements, scores."""
