"""A spec written as JSON reads back as itself, alone and embedded in a plan."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optimizer.spec.cluster import Cluster, Gpu, Link, Pool
from optimizer.spec.formats import FORMATS
from optimizer.spec.frozen import Frozen
from optimizer.spec.model import (
    DenseFfn,
    GroupedQueryAttention,
    LatentAttention,
    LayerRun,
    LayerType,
    LinearAttention,
    ModelSpec,
    MoeFfn,
    Mtp,
    Precision,
)
from optimizer.spec.presets import preset_paths
from optimizer.spec.reading import read_cluster, read_job, read_model, read_workload
from optimizer.spec.workload import WORKLOAD, ForwardWorkload, Limit, ServingWorkload

SMALL = settings(max_examples=60, deadline=None, derandomize=True)

sizes = st.integers(1, 10_000)
names = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), min_size=1, max_size=20)


def quantities(unit: str, most: float) -> st.SearchStrategy[str]:
    return st.floats(1, most).map(lambda value: f"{value!r} {unit}")


links = st.builds(
    Link, bandwidth=quantities("B/s", 1e16), latency=st.floats(0, 1e3).map(lambda v: f"{v!r} s")
)
gpus = st.builds(
    Gpu,
    name=names,
    memory=quantities("B", 1e15),
    memory_bandwidth=quantities("B/s", 1e16),
    flops=st.dictionaries(
        st.sampled_from(["fp32", "bf16", "fp8"]), quantities("FLOP/s", 1e20), min_size=1
    ),
    power=st.none() | quantities("W", 1e6),
)
pools = st.builds(
    Pool,
    gpu=gpus,
    nodes=st.integers(1, 20),
    gpus_per_node=st.integers(2, 16),
    nvlink_domain=st.none() | st.integers(1, 64),
    intra_node=links,
    inter_node=links,
    dead=st.sampled_from([(), ("node0/gpu1",), ("node0/gpu0", "node0/gpu1")]),
)
clusters = st.builds(
    lambda name, found, link: Cluster(
        name=name,
        pools=tuple(
            pool.model_copy(update={"name": f"pool{index}"}) for index, pool in enumerate(found)
        ),
        inter_pool=link,
    ),
    names,
    st.lists(pools, min_size=1, max_size=3),
    st.none() | links,
).filter(lambda cluster: cluster.num_live_gpus > 0)

attentions = st.one_of(
    st.builds(
        lambda kv, group, dim, window, flag: GroupedQueryAttention(
            num_heads=kv * group, num_kv_heads=kv, head_dim=dim, window=window, qk_norm=flag
        ),
        st.integers(1, 16), st.integers(1, 16), sizes, st.none() | sizes, st.booleans(),
    ),
    st.builds(
        LatentAttention, num_heads=sizes, q_lora_rank=st.none() | sizes, kv_lora_rank=sizes,
        qk_nope_head_dim=sizes, qk_rope_head_dim=sizes, v_head_dim=sizes,
    ),
    st.builds(
        LinearAttention, num_key_heads=sizes, num_value_heads=sizes, key_head_dim=sizes,
        value_head_dim=sizes,
    ),
)  # fmt: skip
ffns = st.one_of(
    st.builds(DenseFfn, intermediate_size=sizes, gated=st.booleans()),
    st.builds(
        lambda experts, shared, gate: MoeFfn(
            num_experts=experts, num_experts_per_token=min(2, experts), intermediate_size=64,
            shared_intermediate_size=shared, shared_gate=gate,
        ),
        st.integers(1, 512), st.integers(0, 512), st.booleans(),
    ),
)  # fmt: skip
models = st.builds(
    lambda kinds, repeat, **rest: ModelSpec(
        layer_types={f"type{index}": kind for index, kind in enumerate(kinds)},
        layers=(
            LayerRun(types=("type0",)),
            LayerRun(types=tuple(f"type{index}" for index in range(len(kinds))), repeat=repeat),
        ),
        **rest,
    ),
    st.lists(st.builds(LayerType, attention=attentions, ffn=ffns), min_size=1, max_size=3),
    st.integers(1, 20),
    name=names,
    hidden_size=sizes,
    vocab_size=sizes,
    tied_embeddings=st.booleans(),
    mtp=st.none() | st.builds(Mtp, num_layers=st.integers(1, 3)),
    precision=st.builds(
        Precision, experts=st.sampled_from(list(FORMATS)), kv_cache=st.sampled_from(["fp8", "bf16"])
    ),
)
limits = st.none() | st.builds(
    Limit, value=st.floats(1e-6, 1e3).map(lambda v: f"{v!r} s"), statistic=st.sampled_from(["p99"])
)
workloads = st.one_of(
    st.builds(ForwardWorkload, batch=sizes, seq_len=sizes, latency=limits),
    st.builds(
        ServingWorkload, input_len=sizes, output_len=sizes, ttft=limits, tpot=limits,
        concurrency=st.none() | sizes, engine=st.sampled_from(["any", "vllm"]),
    ),
)  # fmt: skip


def written(spec: Frozen) -> Any:
    """What a plan file holds."""
    return json.loads(json.dumps(spec.model_dump(mode="json", by_alias=True)))


@SMALL
@given(clusters)
def test_any_cluster_reads_back_as_itself(cluster: Cluster) -> None:
    assert Cluster.model_validate(written(cluster)) == cluster


@SMALL
@given(models)
def test_any_model_reads_back_as_itself(model: ModelSpec) -> None:
    assert ModelSpec.model_validate(written(model)) == model


@SMALL
@given(workloads)
def test_any_workload_reads_back_as_itself(workload: ForwardWorkload | ServingWorkload) -> None:
    assert WORKLOAD.validate_python(written(workload)) == workload


@settings(SMALL, max_examples=25)
@given(clusters, models, workloads)
def test_a_plan_file_is_a_valid_input_of_every_kind(
    cluster: Cluster, model: ModelSpec, workload: ForwardWorkload | ServingWorkload
) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optimal_parallel_strategy.json"
        specs = {"cluster": cluster, "model": model, "workload": workload}
        plan = {"schema_version": 1} | {key: written(spec) for key, spec in specs.items()}
        path.write_text(json.dumps(plan))
        assert read_cluster(path) == cluster
        assert read_model(path).model == model
        assert read_workload(path) == workload
        job = read_job(path, path)
        assert (job.cluster, job.model, job.workload) == (cluster, model, workload)


@pytest.mark.parametrize("name", preset_paths("models"))
def test_a_model_preset_reads_back_as_itself(name: str) -> None:
    model = read_model(name).model
    assert ModelSpec.model_validate(written(model)) == model


@pytest.mark.parametrize("name", preset_paths("hardware"))
def test_a_hardware_preset_reads_back_as_itself(name: str) -> None:
    cluster = read_cluster(name)
    assert Cluster.model_validate(written(cluster)) == cluster
