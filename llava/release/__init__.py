"""From a finished run to a checkpoint others can load: `python -m llava.release COMMAND`."""
