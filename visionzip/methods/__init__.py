"""Other vision-side methods, one file each, all of them `visionzip.core.Compressor`. The controls come first."""

from visionzip.methods.downsample import Downsample
from visionzip.methods.pool import Pool
from visionzip.methods.random import Random
from visionzip.methods.uniform import Uniform

__all__ = ["Downsample", "Pool", "Random", "Uniform"]
