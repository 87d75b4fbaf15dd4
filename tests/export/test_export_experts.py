"""A placement as each engine reads it."""

from __future__ import annotations

import json

import numpy as np
import yaml

from optimizer.export.experts import expert_files, placement_json
from optimizer.search.experts import place_experts
from optimizer.verify.experts import check_expert_placement

DOCUMENT = place_experts(np.array([[8.0, 2.0, 1.0], [1.0, 1.0, 9.0]]), 2, 4).document()
MAP = DOCUMENT["physical_to_logical_map"]


def test_placement_json_has_a_line_a_layer_and_reads_back() -> None:
    text = placement_json(DOCUMENT)
    assert json.loads(text) == json.loads(json.dumps(DOCUMENT))
    assert f"  {json.dumps(MAP[1])}\n" in text
    assert check_expert_placement(json.loads(text)) == []


def test_sglang_gets_every_layer_of_the_model_and_no_other_key() -> None:
    # --init-expert-location passes the keys of the file on as arguments: one more is an error
    files = expert_files(DOCUMENT, moe_layers=[1, 3], num_layers=5)
    location = json.loads(files["sglang_expert_location.json"])
    assert list(location) == ["physical_to_logical_map"]
    in_order = [0, 1, 2, 0]
    assert location["physical_to_logical_map"] == [in_order, MAP[0], in_order, MAP[1], in_order]


def test_tensorrt_llm_gets_assignments_by_layer_of_the_model() -> None:
    text = expert_files(DOCUMENT, moe_layers=[1, 3])["trtllm_moe_load_balancer.yaml"]
    balancer = yaml.safe_load(text)["moe_config"]["load_balancer"]
    assert balancer == {
        "num_slots": 4,
        "layer_updates_per_iter": 0,
        "initial_global_assignments": {1: MAP[0], 3: MAP[1]},
    }


def test_vllm_gets_a_list_for_each_layer_that_has_experts() -> None:
    assert json.loads(expert_files(DOCUMENT, moe_layers=[1, 3])["vllm_expert_map.json"]) == MAP


def test_without_dense_layers_no_layer_numbers_are_needed() -> None:
    files = expert_files(DOCUMENT)
    assert json.loads(files["sglang_expert_location.json"])["physical_to_logical_map"] == MAP
    assert sorted(files) == [
        "placement.json",
        "sglang_expert_location.json",
        "trtllm_moe_load_balancer.yaml",
        "vllm_expert_map.json",
    ]
