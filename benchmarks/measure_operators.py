"""Times operators on the GPU at hand with PyTorch and writes a table that the pricers read.

    python benchmarks/measure_operators.py --gpu "H200 SXM" timed.csv
    optimize --timed timed.csv ...

--gpu is the name of the GPU in the hardware file. Matrix products are timed in bf16 and fp8, and
attention of one new token a sequence over a bf16 cache; each is replayed as a CUDA graph, so that
no time of the host counts. Repeats find what fits the L2 cache there; the pricers hold nothing
faster than the datasheet.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, Protocol

import pandas as pd

TOKENS = (1, 4, 16, 64, 256, 1024, 4096)
SIDES = (1024, 2048, 4096, 8192, 16384)
FORMATS = ("bfloat16", "fp8")
SEQUENCES = (1, 4, 16, 64, 256)
KEYS = (256, 1024, 4096, 16384)
HEADS = ((8, 1), (16, 2), (32, 8), (64, 8))  # query and KV heads of a rank
HEAD_DIM = 128
MOST_CACHED = 2**23  # keys of all sequences, in heads of 128 dimensions
REPEATS = 20

Run = Callable[[], object]


class Backend(Protocol):
    """What runs operators and has a clock."""

    software: str

    def product(self, kind: str, m: int, n: int, k: int) -> Run: ...

    def attention(self, sequences: int, keys: int, heads: int, kv_heads: int) -> Run: ...

    def seconds(self, run: Run) -> float: ...


class Torch:
    """PyTorch on the current CUDA device; runs are captured once and replayed."""

    def __init__(self) -> None:
        import torch

        self.torch: Any = torch
        self.software = f"torch {torch.__version__}, CUDA {torch.version.cuda}"

    def _filled(self, *shape: int) -> Any:
        return self.torch.randn(*shape, device="cuda", dtype=self.torch.bfloat16)

    def product(self, kind: str, m: int, n: int, k: int) -> Run:
        rows, weights = self._filled(m, k), self._filled(n, k)
        if kind == "bfloat16":
            return self._captured(lambda: rows @ weights.t())
        torch = self.torch
        low, one = torch.float8_e4m3fn, torch.ones((), device="cuda")
        a, b = rows.to(low), weights.to(low)
        return self._captured(
            lambda: torch._scaled_mm(a, b.t(), scale_a=one, scale_b=one, out_dtype=torch.bfloat16)
        )

    def attention(self, sequences: int, keys: int, heads: int, kv_heads: int) -> Run:
        query = self._filled(sequences, heads, 1, HEAD_DIM)
        key, value = (self._filled(sequences, kv_heads, keys, HEAD_DIM) for _ in range(2))
        attend = self.torch.nn.functional.scaled_dot_product_attention
        return self._captured(lambda: attend(query, key, value, enable_gqa=True))

    def _captured(self, run: Run) -> Run:
        """The run as a CUDA graph, after a warm-up on a stream of its own as capture needs."""
        torch = self.torch
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        replay: Run = graph.replay
        return replay

    def seconds(self, run: Run) -> float:
        begin, end = (self.torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        run()
        end.record()
        end.synchronize()
        return float(begin.elapsed_time(end)) / 1e3


class Asked(NamedTuple):
    """One operator: its table, its sizes under the pricers' names, and what makes it run."""

    table: str
    sizes: dict[str, object]
    make: Callable[[Backend], Run]


def asked() -> Iterator[Asked]:
    """Every operator that is timed."""
    for kind, n, k, m in product(FORMATS, SIDES, SIDES, TOKENS):
        if kind == "bfloat16" or m >= 16:  # scaled products have whole tiles of 16 rows

            def make(backend: Backend, of: tuple[str, int, int, int] = (kind, m, n, k)) -> Run:
                return backend.product(*of)

            yield Asked("gemm_perf", {"format": kind, "m": m, "n": n, "k": k}, make)
    for (heads, kv_heads), sequences, keys in product(HEADS, SEQUENCES, KEYS):
        if sequences * keys * kv_heads <= MOST_CACHED:

            def attend(
                backend: Backend, of: tuple[int, int, int, int] = (sequences, keys, heads, kv_heads)
            ) -> Run:
                return backend.attention(*of)

            sizes = {"sequences": sequences, "context": keys - 1, "heads": heads}
            sizes |= {"kv_heads": kv_heads, "head_dim": HEAD_DIM, "window": 0}
            kinds = {"format": "bfloat16", "cache": "bfloat16"}
            yield Asked("generation_attention_perf", {**kinds, **sizes}, attend)


def measured(gpu: str, backend: Backend, operators: Iterator[Asked]) -> pd.DataFrame:
    """One row an operator: GPU, software, table, sizes, the median seconds of REPEATS runs."""
    rows = []
    for each in operators:
        run = each.make(backend)
        run()
        seconds = median(backend.seconds(run) for _ in range(REPEATS))
        about = {"gpu": gpu, "software": backend.software, "table": each.table}
        rows.append({**about, **each.sizes, "seconds": seconds})
    return pd.DataFrame(rows)


def main() -> None:
    """Times everything and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--gpu", required=True, help="the GPU's name in the hardware file")
    wanted = parser.parse_args()
    found = measured(wanted.gpu, Torch(), asked())
    found.to_csv(wanted.out, index=False, lineterminator="\n")
    print(f"{len(found)} operators timed; written to {wanted.out}")


if __name__ == "__main__":
    main()
