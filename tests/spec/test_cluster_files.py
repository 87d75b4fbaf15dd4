"""What cluster files mean: presets with overrides, GPU counts, domains, pools, assumptions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from optimizer.errors import SpecError
from optimizer.spec.cluster import Cluster
from optimizer.spec.reading import read_cluster

Read = Callable[..., Cluster]

BARE = "gpu: {memory: 80 GB, flops: 400 TFLOP/s}\n"


@pytest.fixture
def cluster(tmp_path: Path) -> Read:
    def read(text: str, gpus: int | None = None) -> Cluster:
        path = tmp_path / "hardware.yaml"
        path.write_text(text)
        return read_cluster(path, gpus=gpus)

    return read


@pytest.mark.parametrize(
    ("gpus", "sizes"),
    [(1, (1,)), (7, (7,)), (8, (8,)), (12, (8, 4)), (16, (8, 8)), (17, (8, 8, 1))],
)
def test_gpus_fill_nodes_of_the_presets_size(gpus: int, sizes: tuple[int, ...]) -> None:
    found = read_cluster("h200-sxm", gpus=gpus)
    assert found.pools[0].sizes == sizes
    assert found.num_live_gpus == gpus


def test_131072_gpus_are_read_and_a_million_and_one_are_not() -> None:
    assert read_cluster("h200-sxm", gpus=131_072).num_gpus == 131_072
    with pytest.raises(
        SpecError, match="--gpus: must be a whole number from 1 to 1,000,000, not 1000001"
    ):
        read_cluster("h200-sxm", gpus=1_000_001)


def test_overrides_reach_any_depth_and_leave_the_rest(cluster: Read) -> None:
    found = cluster("preset: h200-sxm\nnodes: 3\ngpu: {memory: 64 GB}\ndead: [node0/gpu3, node2]\n")
    pool, preset = found.pools[0], read_cluster("h200-sxm").pools[0]
    assert pool.gpu.memory_bytes == 64e9
    assert pool.gpu.flops_per_s == preset.gpu.flops_per_s
    assert pool.intra_node == preset.intra_node
    assert [len(domain.gpus) for domain in found.domains] == [7, 8, 0]
    assert found.num_live_gpus == 15
    assert "node0/gpu3" not in found.domains[0].gpus


def test_a_stated_latency_is_no_assumption(cluster: Read) -> None:
    found = cluster("preset: h200-sxm\nintra_node: {latency: 2 us}\n")
    assert [item.key for item in found.assumptions] == ["inter_node.latency"]
    assert found.pools[0].intra_node.latency_s == 2e-6
    assert found.pools[0].intra_node.bandwidth_bytes_per_s == 450e9


def test_what_a_bare_cluster_leaves_out_is_assumed_and_listed(cluster: Read) -> None:
    found = cluster(BARE + "gpus: 12\n")
    pool = found.pools[0]
    assert pool.sizes == (8, 4)
    assert pool.gpu.memory_bandwidth_bytes_per_s == 3350e9
    assert pool.gpu.flops_per_s == {"bf16": 400e12, "fp8": 400e12}
    assert {item.key: item.value for item in found.assumptions} == {
        "gpu.flops": "bf16 and fp8: 400 TFLOP/s",
        "gpu.memory_bandwidth": "3350 GB/s",
        "gpus_per_node": "8",
        "intra_node.bandwidth": "450 GB/s",
        "intra_node.latency": "3 us",
        "inter_node.bandwidth": "50 GB/s",
        "inter_node.latency": "10 us",
    }


def test_an_assumed_block_gives_its_own_reason(cluster: Read) -> None:
    found = cluster(BARE + "gpus: 16\nassumed: {why: the rack's label, gpus_per_node: 4}\n")
    assert found.pools[0].sizes == (4, 4, 4, 4)
    reason = next(item.why for item in found.assumptions if item.key == "gpus_per_node")
    assert reason == "the rack's label"


def test_the_command_lines_gpus_win_over_the_files(cluster: Read) -> None:
    assert cluster("preset: h200-sxm\nnodes: 4\n", gpus=3).num_gpus == 3


def test_pools_start_from_presets_of_their_own(cluster: Read) -> None:
    found = cluster(
        "name: both\npools:\n  - {preset: h200-sxm, nodes: 2}\n"
        "  - {preset: l4, name: slow, gpus: 4}\ninter_pool: {bandwidth: 25 GB/s, latency: 20 us}\n"
    )
    assert [pool.name for pool in found.pools] == ["h200-sxm", "slow"]
    assert [domain.name for domain in found.domains] == [
        "h200-sxm/node0",
        "h200-sxm/node1",
        "slow/node0",
    ]
    assert found.inter_pool is not None
    assert found.inter_pool.latency_s == 20e-6


def test_irregular_nodes_are_listed_by_size(cluster: Read) -> None:
    found = cluster("preset: h200-sxm\nnode_sizes: [8, 4, 3]\n")
    assert found.pools[0].sizes == (8, 4, 3)


def test_gpus_and_nodes_are_two_ways_to_say_one_thing(cluster: Read) -> None:
    with pytest.raises(SpecError, match="nodes: stands beside gpus; give one of the two"):
        cluster("preset: h200-sxm\nnodes: 2\ngpus: 16\n")


def test_a_wrong_assumption_is_found_where_it_stands(cluster: Read) -> None:
    with pytest.raises(SpecError, match=r"yaml:4: assumed\.intra_node\.latency: 3 has no unit"):
        cluster(BARE + "gpus: 8\nassumed:\n  intra_node: {latency: 3}\n")


def test_gpus_on_the_command_line_need_a_single_pool(cluster: Read) -> None:
    with pytest.raises(SpecError, match="--gpus counts the GPUs of one pool"):
        cluster("pools: [{preset: l4}, {preset: a30}]", gpus=8)


def test_an_nvlink_domain_spans_nodes_and_the_last_may_be_smaller(cluster: Read) -> None:
    found = cluster("preset: gb200\nnodes: 20\n")
    assert [(domain.name, len(domain.gpus)) for domain in found.domains] == [
        ("node0-17", 72),
        ("node18-19", 8),
    ]


def test_leaf_switches_and_rails_are_named(cluster: Read) -> None:
    found = cluster("preset: h200-sxm\nnodes: 8\nleaf: {nodes: 4, oversubscription: 2}\nrails: 8\n")
    pool = found.pools[0]
    assert pool.leaf is not None
    assert (pool.leaf.nodes, pool.leaf.oversubscription, pool.rails) == (4, 2.0, 8)
    assert [domain.leaf for domain in found.domains] == [0] * 4 + [1] * 4
    assert pool.spine_bytes_per_s == pool.inter_node.bandwidth_bytes_per_s / 2
    assert [domain.leaf for domain in found.leaves_apart.domains] == list(range(8))


def test_without_leaf_switches_nothing_of_them_is_written() -> None:
    document = read_cluster("h200-sxm").model_dump(mode="json", by_alias=True)
    assert not {"leaf", "rails"} & set(document["pools"][0])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("rails: 8", "rails: needs the spine that joins the rails; write for example"),
        ("leaf: {nodes: 4}\nrails: 3", "rails: must divide the GPUs of every node; 3 does not"),
        ("leaf: {nodes: 4, oversubscription: 0.5}", "leaf.oversubscription: must be"),
        ("leaf: {oversubscription: 2}", "leaf.nodes: is missing"),
        ("leaf: {nodes: 0}", "leaf.nodes: must be"),
        ("leaf: {nodes: 3}\nnvlink_domain: 16", "leaf.nodes: cuts the NVLink domain of 16 GPUs"),
        ("leaf: {nodes: 4, oversubscribed: 2}", "did you mean 'oversubscription'"),
        ("leaf: 4", "leaf: must be a mapping"),
    ],
)
def test_switches_that_do_not_fit_get_a_named_error(cluster: Read, text: str, message: str) -> None:
    with pytest.raises(SpecError, match=message.replace("(", r"\(")):
        cluster(f"preset: h200-sxm\nnodes: 8\n{text}\n")
