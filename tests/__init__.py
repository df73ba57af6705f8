"""A real package: a dependency of lmms-eval installs a top-level `tests` that would win over a namespace."""
