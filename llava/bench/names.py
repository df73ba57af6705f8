"""The names of what is compared, without the code behind them: a command's help is read in an instant."""

PATHS = ("plain", "lean", "fast", "compiled", "official")
IN_FRONT = ("visionzip", "random", "uniform", "pool", "downsample")
INSIDE = ("fastv", "sparsevlm")
METHODS = ("dense", *IN_FRONT, *INSIDE)
BITS = (16, 8, 4)
ATTENTION = ("sdpa", "flash_attention_2", "eager")
PARTS = ("latency", "encoder", "memory", "throughput", "train", "kernels", "scaling")
