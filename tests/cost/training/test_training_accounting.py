"""Parameters, model FLOPs and MFU, by the conventions that others publish with."""

from __future__ import annotations

import numpy as np
import pytest

from optimizer.cost.training import Job, TrainingLayouts, mfu, model_flops
from optimizer.cost.training.accounting import token_parameters
from optimizer.cost.training.lowering import lower
from optimizer.spec.linears import layer_linears, parameters, total_parameters
from optimizer.spec.model import DenseFfn, GroupedQueryAttention, LayerRun, LayerType, ModelSpec
from optimizer.spec.reading import read_model


def gpt(layers: int, hidden: int, heads: int, vocab: int = 51200) -> ModelSpec:
    attention = GroupedQueryAttention(num_heads=heads, num_kv_heads=heads, head_dim=hidden // heads)
    ffn = DenseFfn(intermediate_size=4 * hidden, gated=False)
    return ModelSpec(
        name="gpt",
        hidden_size=hidden,
        vocab_size=vocab,
        tied_embeddings=True,
        layer_types={"layer": LayerType(attention=attention, ffn=ffn)},
        layers=(LayerRun(types=("layer",), repeat=layers),),
    )


@pytest.mark.parametrize(
    ("layers", "hidden", "heads"), [(48, 6144, 64), (96, 12288, 96), (105, 20480, 128)]
)
def test_model_flops_with_the_whole_square_are_those_of_korthikanti(
    layers: int, hidden: int, heads: int
) -> None:
    batch, length, vocab = 64, 2048, 51200
    share = 1 + length / (6 * hidden) + vocab / (12 * hidden * layers)
    wanted = 72 * batch * layers * length * hidden**2 * share  # their equation 7
    found = model_flops(gpt(layers, hidden, heads), Job(length), batch, full_attention=True)
    assert found == pytest.approx(wanted)


def test_causal_attention_counts_half_of_the_square() -> None:
    model, job = gpt(96, 12288, 96), Job(2048)
    attention = 12 * 96 * 12288 * 2048 * 64 * 2048
    whole = model_flops(model, job, 64, full_attention=True)
    assert whole - model_flops(model, job, 64) == pytest.approx(attention / 2)


def test_the_published_mfu_of_gpt_175b_follows_from_its_step() -> None:
    flops = model_flops(gpt(96, 12288, 96), Job(2048), 64, full_attention=True)
    share = mfu(flops, np.array([13.75]), 64, 312e12)
    assert share == pytest.approx(0.514, abs=0.002)  # Korthikanti et al., table 5


def test_llama_405b_took_its_published_flops() -> None:
    flops = model_flops(read_model("llama-3.1-405b").model, Job(8192), 1)
    tokens = 15.6e12  # Llama 3 report
    assert flops / 8192 * tokens == pytest.approx(3.8e25, rel=0.05)


@pytest.mark.parametrize(
    ("name", "billions"),
    [("deepseek-v3", 37), ("kimi-k2", 32), ("qwen3-235b-a22b", 22), ("qwen3-30b-a3b", 3.3)],
)
def test_a_token_crosses_the_active_parameters_of_the_model_card(
    name: str, billions: float
) -> None:
    model = read_model(name).model
    layers = sum(
        token_parameters(model.layer_types[kind], model.hidden_size) for kind in model.layer_names
    )
    tables = 2 * model.hidden_size * model.vocab_size
    assert (layers + tables) / 1e9 == pytest.approx(billions, rel=0.03)


@pytest.mark.parametrize(
    "name", ["llama-3.1-70b", "deepseek-v3", "mixtral-8x22b", "gpt-oss-120b", "qwen3-30b-a3b"]
)
@pytest.mark.parametrize(("tp", "ep", "etp"), [(1, 1, 1), (2, 4, 2), (4, 8, 1)])
def test_the_shards_of_all_ranks_sum_to_the_model(name: str, tp: int, ep: int, etp: int) -> None:
    model = read_model(name).model
    if model.moe is None:
        ep, etp = 1, 1
    layout = TrainingLayouts.of(8, tp=tp, ep=ep, etp=etp, dp=8)
    lowered = lower(model, layout, Job(4096))
    held = sum(
        layer.count * (tp * layer.dense_parameters + ep * etp * layer.expert_parameters)
        for layer in lowered.layers
    )
    tables = (2 - model.tied_embeddings) * tp * lowered.table_parameters
    replicated = sum(
        parameters(linear)
        for kind in model.layer_names
        for linear in layer_linears(model.layer_types[kind], model.hidden_size)
        if linear.split == "none" and linear.part != "experts"
    )
    wanted = total_parameters(model) + (tp - 1) * replicated
    assert float(held[0] + tables[0]) == pytest.approx(wanted, rel=2e-4)  # padded vocabulary


def test_work_is_shared_by_tensor_parallel_ranks() -> None:
    model = read_model("llama-3.1-70b").model
    flops = []
    for tp in (1, 8):
        lowered = lower(model, TrainingLayouts.of(8, tp=tp), Job(8192))
        flops.append(tp * sum(float(np.sum(work.flops)) for work in lowered.layers[0].works))
    assert flops[0] == pytest.approx(flops[1])
