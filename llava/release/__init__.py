"""From a finished run to a checkpoint others can load: `python -m llava.release COMMAND`."""

SHARD_GB = 4.0  # default size of a weight file in 10^9 bytes; here, because `--help` shows it and imports nothing else
