"""The language models: one shared mixin and one thin file per family."""
