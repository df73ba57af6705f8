"""A listener of stages for tests."""

from contextlib import contextmanager


class Heard:
    """A listener that writes down the stages; they must not nest."""

    def __init__(self):
        self.names, self.open = [], False

    @contextmanager
    def stage(self, name):
        assert not self.open, f"{name} begins inside another stage"
        self.names.append(name)
        self.open = True
        yield
        self.open = False
