"""The command that launches one replica of a serving plan, alone or as a prefill or decode worker.

Flags as of vLLM 0.33 (KV cache sent by its NIXL connector), SGLang 0.5.23 and TensorRT-LLM 1.2;
`optimize audit` reads them back as the same layout. Left out: addresses of several nodes, parsers,
and the formats of weights, which the checkpoint states.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from math import ceil

from optimizer.layout import divisibility_problems
from optimizer.plan import Deployment, Plan
from optimizer.spec.fleet import Role
from optimizer.spec.presets import model_repositories
from optimizer.spec.workload import Engine, ServingWorkload

NAMES: Mapping[Engine, str] = {"vllm": "vLLM", "sglang": "SGLang", "trtllm": "TensorRT-LLM"}
ATTENTION_DP = (  # all ranks wait where one prefills: prompts wait until each has one
    "attention_dp_config: {enable_balance: true, batching_wait_iters: 0, timeout_iters: 60}"
)
PASSING = ("activations", "logits", "communication buffers", "runtime reserve")  # of a step


def why_not(plan: Plan, engine: Engine) -> str:
    """What of a plan's layout an engine cannot express; "" where it can."""
    workload = plan.workload.model_copy(update={"engine": engine})
    return "; ".join(divisibility_problems(plan.deployment.layout, plan.model, workload))


def vllm_command(plan: Plan, role: Role) -> str | None:
    """None where vLLM has no flags for the layout: it cuts experts over all ranks of a stage, by EP
    or by ETP."""
    if why_not(plan, "vllm"):
        return None
    deployment, copies = plan.deployment, plan.workload.redundant_experts
    layout, batch, memory = deployment.layout, deployment.batch, deployment.memory
    words = [f"{_partition(deployment, 'VLLM')}vllm serve {_model(plan)} -tp {layout.tp}"]
    words += [*_above_one("-pp", layout.pp), *_above_one("-dp", layout.dp)]
    words += ["--enable-expert-parallel"] if layout.ep > 1 else []
    if copies and layout.ep > 1:
        words.append(f"--enable-eplb --eplb-config '{{\"num_redundant_experts\": {copies}}}'")
    words.append(f"--max-num-seqs {batch.sequences_per_rank}")
    words.append(f"--max-num-batched-tokens {max(batch.prefill_chunk, batch.sequences_per_rank)}")
    words += [f"--max-model-len {tokens}" for tokens in _request_tokens(plan, role)]
    words.append(f"--gpu-memory-utilization {memory.limit_bytes / memory.gpu_bytes:.2f}")
    words += ["--kv-cache-dtype fp8"] if deployment.precision.kv_cache == "fp8" else []
    if role != "serving":
        words.append(
            '--kv-transfer-config \'{"kv_connector": "NixlConnector", "kv_role": "kv_both"}\''
        )
    return " ".join(words)


def sglang_command(plan: Plan, role: Role) -> str | None:
    """Its --tp counts all ranks of a stage; tokens and requests are of all attention ranks."""
    if why_not(plan, "sglang"):
        return None
    deployment, copies = plan.deployment, plan.workload.redundant_experts
    layout, batch, memory = deployment.layout, deployment.batch, deployment.memory
    program = f"{_partition(deployment, 'SGLANG')}python3 -m sglang.launch_server"
    words = [f"{program} --model-path {_model(plan)} --tp {layout.width}"]
    words += [*_above_one("--pp-size", layout.pp), *_above_one("--ep-size", layout.ep)]
    if layout.dp > 1:  # all ranks wait where one prefills: prompts wait until each has one
        words.append(f"--dp {layout.dp} --enable-dp-attention --enable-prefill-delayer")
    words += [f"--ep-num-redundant-experts {copies}"] if copies and layout.ep > 1 else []
    words.append(f"--max-running-requests {batch.sequences_per_rank * layout.dp}")
    words.append(f"--chunked-prefill-size {batch.prefill_chunk * layout.dp}")
    words += [f"--context-length {tokens}" for tokens in _request_tokens(plan, role)]
    words.append(f"--mem-fraction-static {_share(_lasting(deployment), memory.gpu_bytes):.2f}")
    words += ["--kv-cache-dtype fp8_e4m3"] if deployment.precision.kv_cache == "fp8" else []
    words += [f"--disaggregation-mode {role}"] if role != "serving" else []
    return " ".join(words)


def trtllm_command(plan: Plan, role: Role) -> str | None:
    """None where attention is cut by TP and DP at once: it does one or the other."""
    if why_not(plan, "trtllm"):
        return None
    deployment, copies = plan.deployment, plan.workload.redundant_experts
    layout, batch = deployment.layout, deployment.batch
    words = [f"trtllm-serve {_model(plan)} --tp_size {layout.width}"]
    words += [*_above_one("--pp_size", layout.pp), *_above_one("--ep_size", layout.ep)]
    words.append(f"--max_batch_size {batch.sequences_per_rank}")
    words.append(f"--max_num_tokens {max(batch.prefill_chunk, batch.sequences_per_rank)}")
    words += [f"--max_seq_len {tokens}" for tokens in _request_tokens(plan, role)]
    words.append(f"--kv_cache_free_gpu_memory_fraction {_cache_share(deployment):.2f}")
    options = ["enable_attention_dp: true", ATTENTION_DP] if layout.dp > 1 else []
    if layout.pp > 1:
        options.append(f"pp_partition: [{', '.join(map(str, _stage_sizes(deployment)))}]")
    if copies and layout.ep > 1 and plan.model.moe is not None:
        slots = plan.model.moe.num_experts + copies
        options.append(f"moe_config: {{load_balancer: {{num_slots: {slots}}}}}")
    if deployment.precision.kv_cache == "fp8":
        options.append("kv_cache_config: {dtype: fp8}")
    options += ["cache_transceiver_config: {backend: NIXL}"] if role != "serving" else []
    words += ["--extra_llm_api_options options.yaml"] if options else []
    return " ".join(words) + (f"   # options.yaml: {'; '.join(options)}" if options else "")


def _model(plan: Plan) -> str:
    """The repository of a preset's checkpoint, else the model's own name."""
    return model_repositories().get(plan.model.name, plan.model.name)


def _above_one(flag: str, degree: int) -> list[str]:
    return [f"{flag} {degree}"] if degree > 1 else []


def _request_tokens(plan: Plan, role: Role) -> Iterator[int]:
    """Of a prefill worker nothing: its plan ends with the first token, but routers may hand it
    requests with their whole answer."""
    if isinstance(plan.workload, ServingWorkload) and role != "prefill":
        yield plan.workload.input_len + plan.workload.output_len


def _partition(deployment: Deployment, engine: str) -> str:
    """The layers of the stages, as an engine's environment names them; "" of one stage."""
    if deployment.layout.pp == 1:
        return ""
    return f"{engine}_PP_LAYER_PARTITION={','.join(map(str, _stage_sizes(deployment)))} "


def _stage_sizes(deployment: Deployment) -> list[int]:
    return [stop - first for first, stop in deployment.placement.stage_layers]


def _lasting(deployment: Deployment) -> float:
    """Bytes of weights and cache on the fullest GPU."""
    memory = deployment.memory
    components = memory.stages[memory.fullest_stage].components
    return sum(size for name, size in components.items() if name not in PASSING)


def _cache_share(deployment: Deployment) -> float:
    """The cache over what all but the cache leaves free."""
    memory = deployment.memory
    cache = memory.stages[memory.fullest_stage].components.get("KV cache", 0.0)
    return min(_share(cache, memory.gpu_bytes - memory.fullest_bytes + cache), 0.99)


def _share(part: float, whole: float) -> float:
    """A share rounded up to two digits, so that the part has room."""
    return ceil(100 * part / whole) / 100


COMMANDS: Mapping[Engine, Callable[[Plan, Role], str | None]] = {
    "vllm": vllm_command,
    "sglang": sglang_command,
    "trtllm": trtllm_command,
}
ROUTERS: Mapping[Engine, str] = {
    "vllm": "a proxy that sends each request to a prefill worker with max_tokens 1, and then, with "
    "the kv_transfer_params of its answer, to a decode worker",
    "sglang": "python -m sglang_router.launch_router --pd-disaggregation "
    "--prefill http://PREFILL:PORT --decode http://DECODE:PORT",
    "trtllm": "trtllm-serve disaggregated -c disagg_config.yaml, with context_servers and "
    "generation_servers by num_instances and urls",
}
