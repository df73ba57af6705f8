"""The benchmarks in their public layout. `TASKS` is the whole list; a new one is one module and one line
here. Columns of tables stand in this order."""

from collections.abc import Mapping

from llava.eval.tasks import gqa, mmbench, mme, pope, seed, sqa, textvqa, vizwiz, vqav2
from llava.eval.tasks.base import Benchmark, Scorer, TaskScore

TASKS: Mapping[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        gqa.BENCHMARK,
        mmbench.BENCHMARK,
        mmbench.BENCHMARK_CN,
        mme.BENCHMARK,
        pope.BENCHMARK,
        sqa.BENCHMARK,
        vqav2.BENCHMARK,
        textvqa.BENCHMARK,
        vizwiz.BENCHMARK,
        seed.BENCHMARK,
        seed.BENCHMARK_IMAGE,
    )
}

__all__ = ["TASKS", "Benchmark", "Scorer", "TaskScore"]
