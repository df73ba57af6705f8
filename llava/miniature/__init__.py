"""The miniature: a synthetic world in LLaVA's real file formats, and the tiny base model trained on it."""
