"""Small plans of every shape that the checks tell apart, as the JSON that is written."""

from __future__ import annotations

import json
from typing import Any

import pytest

from optimizer import optimize
from optimizer.plan import write_plan
from optimizer.spec.cluster import Cluster
from optimizer.spec.model import ModelSpec
from optimizer.spec.workload import WORKLOAD

CLUSTER = Cluster.model_validate(
    {
        "name": "two small nodes",
        "pools": [
            {
                "name": "pool",
                "gpu": {
                    "memory": "24 GB",
                    "memory_bandwidth": "300 GB/s",
                    "flops": {"bf16": "120 TFLOP/s", "fp8": "240 TFLOP/s"},
                },
                "nodes": 2,
                "gpus_per_node": 4,
                "intra_node": {"bandwidth": "450 GB/s", "latency": "3 us"},
                "inter_node": {"bandwidth": "50 GB/s", "latency": "5 us"},
                "dead": ["node1/gpu2"],
            }
        ],
    }
)
MIXED = Cluster.model_validate(
    {
        "name": "two pools",
        "pools": [
            CLUSTER.model_dump(mode="json", by_alias=True)["pools"][0] | {"name": "old"},
            {
                "name": "new",
                "gpu": {
                    "memory": "32 GB",
                    "memory_bandwidth": "700 GB/s",
                    "flops": {"bf16": "300 TFLOP/s"},
                },
                "nodes": 2,
                "gpus_per_node": 4,
                "intra_node": {"bandwidth": "450 GB/s", "latency": "2 us"},
                "inter_node": {"bandwidth": "40 GB/s", "latency": "4 us"},
                "dead": ["node0/gpu1", "node1/gpu0", "node1/gpu3"],
            },
        ],
        "inter_pool": {"bandwidth": "20 GB/s", "latency": "9 us"},
    }
)
ATTENTION = {"num_heads": 8, "num_kv_heads": 2, "head_dim": 64, "qk_norm": True}
MIXTURE = ModelSpec.model_validate(
    {
        "name": "mixture",
        "hidden_size": 512,
        "vocab_size": 4001,
        "layer_types": {
            "dense": {
                "attention": {"kind": "gqa", **ATTENTION, "bias": True},
                "ffn": {"kind": "dense", "intermediate_size": 1536},
            },
            "moe": {
                "attention": {"kind": "gqa", **ATTENTION, "window": 256, "sinks": True},
                "ffn": {
                    "kind": "moe",
                    "num_experts": 6,
                    "num_experts_per_token": 2,
                    "intermediate_size": 768,
                    "shared_intermediate_size": 512,
                    "router_correction": True,
                },
            },
        },
        "layers": [{"types": ["dense"]}, {"types": ["moe", "dense"], "repeat": 2}],
        "max_context": 8192,
        "precision": {"experts": "mxfp4", "kv_cache": "fp8"},
    }
)
LATENT = ModelSpec.model_validate(
    {
        "name": "latent",
        "hidden_size": 256,
        "vocab_size": 1000,
        "tied_embeddings": True,
        "layer_types": {
            "latent": {
                "attention": {
                    "kind": "mla",
                    "num_heads": 4,
                    "q_lora_rank": 96,
                    "kv_lora_rank": 64,
                    "qk_nope_head_dim": 32,
                    "qk_rope_head_dim": 16,
                    "v_head_dim": 32,
                    "indexer": {"num_heads": 2, "head_dim": 32, "top_k": 512},
                },
                "ffn": {"kind": "dense", "intermediate_size": 512, "gated": False},
            },
            "linear": {
                "attention": {
                    "kind": "linear",
                    "num_key_heads": 4,
                    "num_value_heads": 8,
                    "key_head_dim": 32,
                    "value_head_dim": 32,
                },
                "ffn": {"kind": "dense", "intermediate_size": 512},
            },
        },
        "layers": [{"types": ["linear", "latent"], "repeat": 2}],
        "mtp": {"num_layers": 1, "used": True},
        "extra_weights": [{"name": "encoder", "parameters": 1001}],
    }
)
SMALLEST = ModelSpec.model_validate(
    {
        "name": "smallest",
        "hidden_size": 128,
        "vocab_size": 100,
        "layer_types": {
            "only": {
                "attention": {"kind": "gqa", **ATTENTION},
                "ffn": {"kind": "dense", "intermediate_size": 256},
            }
        },
        "layers": [{"types": ["only"], "repeat": 2}],
    }
)
SERVING = {"kind": "serving", "input_len": 3000, "output_len": 200, "prefix_len": 100}
LIMITED = {"ttft": "20 s", "tpot": {"value": "200 ms", "statistic": "p95"}}
RUNS: dict[str, tuple[ModelSpec, dict[str, Any], dict[str, Any]]] = {
    "searched": (MIXTURE, {**SERVING, **LIMITED}, {"top": 3}),
    "staged": (MIXTURE, {**SERVING, "concurrency": 50}, {"strategy": "PP3-EP2-TP2"}),
    "spread": (MIXTURE, {**SERVING, "request_rate": "2 req/s"}, {"strategy": "EP3-ETP2-TP2-DP3"}),
    "forward": (
        LATENT,
        {"kind": "forward", "batch": 12, "seq_len": 1024, "latency": "10 s"},
        {"objective": "latency", "top": 2},
    ),
    "robust": (
        MIXTURE,
        {
            **SERVING,
            "ttft": "60 s",
            "tpot": "1 s",
            "concurrency": 20,
            "robust": {"expert_imbalance": 1.5, "context": 1.2},
        },
        {"confidence": 0.95, "strategy": "EP2-DP2"},
    ),
    "smallest": (SMALLEST, {"kind": "forward", "batch": 2, "seq_len": 16}, {"top": 2}),
    "latent": (LATENT, {**SERVING, "expert_imbalance": 1.5}, {"objective": "gpus", "top": 2}),
    "spanning": (MIXTURE, {**SERVING, "concurrency": 40}, {"strategy": "PP5-EP2-TP2"}),
}
CLUSTERS = {"spanning": MIXED}  # all others: CLUSTER


@pytest.fixture(scope="session")
def plan_texts() -> dict[str, str]:
    """Every run's last plan as JSON text, by the run's name."""
    return {
        name: write_plan(
            optimize(
                CLUSTERS.get(name, CLUSTER), model, WORKLOAD.validate_python(workload), **flags
            ).plans[-1]
        )
        for name, (model, workload, flags) in RUNS.items()
    }


@pytest.fixture(params=sorted(RUNS))
def document(request: pytest.FixtureRequest, plan_texts: dict[str, str]) -> dict[str, Any]:
    """One plan's JSON, fresh for each test."""
    found: dict[str, Any] = json.loads(plan_texts[request.param])
    return found
