"""Demands to seconds by hand, and what no constant may change."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimizer.cost.calibration import Constants, load_calibration
from optimizer.cost.demand import (
    DEMANDS,
    Device,
    Transfer,
    Work,
    all_reduce,
    all_to_all,
    send_recv,
    work,
)
from optimizer.cost.pricers import PRICERS, attention, collective, gemm, grouped_gemm, memory
from optimizer.operators import Operator
from optimizer.operators.operator import Kind
from optimizer.operators.operator import collective as collective_operator
from optimizer.spec.cluster import Link
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


@pytest.mark.parametrize(("size", "inside"), [(9, 8), (9, 5), (14, 8), (16, 8), (7, 3), (6, 6)])
def test_an_all_to_all_is_as_slow_as_its_slowest_rank(size: int, inside: int) -> None:
    pieces = [inside] * (size // inside) + ([size % inside] if size % inside else [])
    slowest = max(
        max((piece - 1) / size * 1e9 / 450e9, (size - piece) / size * 1e9 / 50e9)
        for piece in pieces
    )
    columns = (np.array([float(value)]) for value in (1e9, size, inside))
    found = all_to_all(collective_operator("x", "all_to_all", "ep", *columns), H200)
    assert found.wire_s == pytest.approx(slowest)


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


def under_leaf(kind: Kind, leaf: float, oversubscription: float, rails: int = 1) -> float:
    """Seconds on the wire of 1 GB over 32 ranks in nodes of 8, so many under one leaf."""
    device = H200._replace(oversubscription=oversubscription, rails=rails)
    column = (np.array([value]) for value in (1e9, 32.0, 8.0, leaf))
    found = DEMANDS[kind](collective_operator("x", kind, "ep", *column), device)
    assert isinstance(found, Transfer)
    return float(np.asarray(found.wire_s)[0])


def test_an_all_to_all_pays_the_thin_spine_for_what_leaves_the_leaf() -> None:
    # 24 of 32 ranks are in other nodes at 50 GB/s; 16 under another leaf at a quarter of that
    assert under_leaf("all_to_all", 32, 4) == pytest.approx(24 / 32 * 1e9 / 50e9)
    assert under_leaf("all_to_all", 16, 4) == pytest.approx(16 / 32 * 1e9 / 12.5e9)
    assert under_leaf("all_to_all", 8, 4) == pytest.approx(24 / 32 * 1e9 / 12.5e9)


def test_a_ring_pays_the_spine_where_it_crosses_alone() -> None:
    near = 7 / 8 * 32e9 / 450e9
    far = 3 / 4 * 4e9 / 50e9  # of 32 GB a place's eighth, between four nodes
    assert under_leaf("all_gather", 32, 4) == pytest.approx(near + far)
    # two nodes under a leaf have twice a quarter of a link for the one edge that crosses
    assert under_leaf("all_gather", 16, 4) == pytest.approx(near + 2 * far)
    assert under_leaf("all_gather", 8, 4) == pytest.approx(near + 4 * far)
    assert under_leaf("all_gather", 16, 2) == pytest.approx(near + far)
    assert under_leaf("all_reduce", 8, 4) == pytest.approx(2 * (7 / 8 * 1e9 / 450e9 + 4 * far / 32))


def test_a_message_to_a_stage_under_another_leaf_takes_the_spine() -> None:
    def seconds(leaf: float) -> float:
        column = (np.array([value]) for value in (1e9, 2.0, 1.0, leaf))
        operator = collective_operator("x", "send_recv", "pp", *column)
        return float(send_recv(operator, H200._replace(oversubscription=2.0)).wire_s[0])

    assert (seconds(2.0), seconds(1.0)) == (1e9 / 50e9, 1e9 / 25e9)


def test_to_other_rails_an_all_to_all_hops_over_nvlink_or_takes_the_spine() -> None:
    # 24 ranks in other nodes, 21 of them on other rails: the hop adds 21 to NVLink's 7
    assert under_leaf("all_to_all", 32, 1, 8) == pytest.approx(24 / 32 * 1e9 / 50e9)
    assert under_leaf("all_to_all", 32, 1000, 8) == pytest.approx(24 / 32 * 1e9 / 50e9)
    slow = H200._replace(
        oversubscription=2.0,
        rails=8,
        inside=Link(bandwidth="50 GB/s", latency="1 us"),
    )
    column = (np.array([value]) for value in (1e9, 32.0, 8.0, 32.0))
    found = all_to_all(collective_operator("x", "all_to_all", "ep", *column), slow)
    assert found.wire_s == pytest.approx((7 + 21) / 32 * 1e9 / 50e9)  # the spine: 2 x 21/32


@given(
    st.sampled_from(["all_reduce", "all_gather", "reduce_scatter", "all_to_all"]),
    st.sampled_from([8.0, 16.0, 32.0]),
    st.sampled_from([1, 2, 4, 8]),
    st.floats(1.0, 16.0),
    st.floats(1.0, 4.0),
)
def test_more_oversubscription_is_never_faster(
    kind: Kind, leaf: float, rails: int, thinner: float, factor: float
) -> None:
    found = under_leaf(kind, leaf, thinner, rails)
    assert under_leaf(kind, leaf, thinner * factor, rails) >= found >= under_leaf(kind, 32, 1)
    assert under_leaf(kind, 8, thinner, rails) >= found * (1 - 1e-12)
