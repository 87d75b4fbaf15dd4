"""Demands to seconds by hand, and what no constant may change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.cost.calibration import Constants, load_calibration
from optimizer.cost.demand import Device, Transfer, Work, all_reduce, all_to_all, work
from optimizer.cost.pricers import PRICERS, attention, collective, gemm, grouped_gemm, memory
from optimizer.operators import Operator
from optimizer.operators.operator import collective as collective_operator
from optimizer.spec.reading import read_cluster

ONES = Constants(*(1.0 for _ in Constants._fields))
H200 = Device.of(read_cluster("h200-sxm"), 0)
B200 = Device.of(read_cluster("b200-sxm"), 0)


def asked(**changes: float) -> Work:
    plain = Work(3.0, 4.0, 0.0, 0.0, 0.0, 1e30, 1e30)
    return plain._replace(**changes)


def test_a_roofline_is_the_hypotenuse_of_arithmetic_and_memory() -> None:
    assert gemm(asked(), ONES) == 5.0
    constants = ONES._replace(gemm_efficiency=0.5, memory_efficiency=0.5, kernel_s=0.25)
    assert gemm(asked(kernels=2.0), constants) == 10.5
    assert attention(asked(), ONES._replace(cache_memory_efficiency=0.5)) == np.hypot(3, 8)
    assert memory(asked(kernels=1.0), ONES) == 5.0  # 4 s and one start; nothing is multiplied


def test_low_bits_reach_less_of_their_peak() -> None:
    constants = ONES._replace(fp8_efficiency=0.5, block_fp8_efficiency=0.5)
    assert gemm(asked(memory_s=0.0), constants) == 3.0
    assert gemm(asked(memory_s=0.0, eight=1.0), constants) == 6.0
    assert gemm(asked(memory_s=0.0, eight=1.0, blocks=1.0), constants) == 12.0


def test_a_shard_as_narrow_as_the_constant_takes_twice_as_long() -> None:
    constants = ONES._replace(narrow_columns=200.0, narrow_read_bytes=20.0)
    assert grouped_gemm(asked(memory_s=0.0, side=200.0), constants) == 6.0
    assert grouped_gemm(asked(arithmetic_s=0.0, side_bytes=20.0), constants) == 8.0


def test_a_product_asks_for_its_operations_and_bytes_at_the_datasheets_rates() -> None:
    flops, moved = np.array([989e12]), np.array([4.8e12])
    found = work(Operator("x", "x", "gemm", flops, moved, n=64.0, k=128.0), H200)
    assert (found.arithmetic_s, found.memory_s) == (1.0, 1.0)
    assert (found.side, found.side_bytes) == (64.0, 128.0)
    eight = work(Operator("x", "x", "gemm", flops, moved, format="fp8_block"), H200)
    assert (eight.arithmetic_s, eight.eight, eight.blocks) == (0.5, 1.0, 1.0)


def test_formats_run_in_what_the_gpu_has() -> None:
    assert (H200.compute("nvfp4"), B200.compute("nvfp4")) == ("bf16", "fp4")
    assert (H200.compute("mxfp4"), B200.compute("mxfp4")) == ("bf16", "fp8")
    assert H200.compute("int4") == B200.compute("int4") == "bf16"


def transfer(ranks: float, payload_bytes: float) -> Transfer:
    column = np.array([payload_bytes])
    ranks_column = np.array([ranks])
    operator = collective_operator("x", "all_reduce", "tp", column, ranks_column, ranks_column)
    return all_reduce(operator, H200)


def test_an_all_reduce_is_started_once_and_moves_its_bytes_twice() -> None:
    found = transfer(8.0, 2.0**20)
    assert (found.starts, found.doublings) == (1.0, 3.0)
    assert found.wire_s == pytest.approx(2 * 7 / 8 * 2**20 / 450e9)
    assert found.rounds == pytest.approx(28 / 3)  # 1 MiB / 1.5 MiB of 2 (p - 1)
    assert transfer(8.0, 1e9).rounds == pytest.approx(14.0, rel=2e-3)
    constants = ONES._replace(collective_s=5.0, collective_doubling_s=1.0, ring_step_s=0.0)
    assert collective(found, constants) == pytest.approx(8.0 + found.wire_s)


def test_one_rank_tells_nobody() -> None:
    assert collective(transfer(1.0, 1e6), ONES) == 0.0
    alone = collective_operator(
        "x", "all_to_all", "ep", np.array([1e6]), np.array([1.0]), np.array([1.0])
    )
    assert collective(all_to_all(alone, H200), ONES) == 0.0


def test_beyond_the_domain_the_slower_links_decide() -> None:
    ranks, payload = np.array([16.0]), np.array([1e9])
    near = collective_operator("x", "all_to_all", "ep", payload, ranks, ranks)
    far = collective_operator("x", "all_to_all", "ep", payload, ranks, ranks / 2)
    # 8 of 16 ranks lie behind 50 GB/s
    assert all_to_all(far, H200).wire_s == pytest.approx(8 / 16 * 1e9 / 50e9)
    assert all_to_all(near, H200).wire_s < all_to_all(far, H200).wire_s


@given(
    st.sampled_from(["gemm", "grouped_gemm", "attention", "memory"]),
    st.floats(1e-6, 1.0),
    st.floats(1e-6, 1.0),
    st.floats(1.0, 4.0),
)
def test_a_faster_device_is_never_slower(
    kind: str, arithmetic_s: float, memory_s: float, factor: float
) -> None:
    constants = load_calibration().constants_of("vllm", "hopper")
    slow = Work(arithmetic_s, memory_s, 1.0, 1.0, 0.0, 256.0, 256.0)
    for quick in (
        slow._replace(memory_s=memory_s / factor),
        slow._replace(arithmetic_s=arithmetic_s / factor),
    ):
        assert PRICERS[kind](quick, constants) <= PRICERS[kind](slow, constants)
