"""The command that launches one replica of a serving plan, alone or as a prefill or decode worker.

Flags as of vLLM 0.19 (KV cache sent by its NIXL connector), SGLang 0.5 and TensorRT-LLM 1.2.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from optimizer.plan import Plan
from optimizer.spec.fleet import Role

MODEL = "MODEL"  # in place of the checkpoint's path


def vllm_command(plan: Plan, role: Role) -> str | None:
    """None where vLLM has no flags for the layout: it cuts experts over all ranks of a stage, by EP
    or by ETP."""
    layout, batch = plan.deployment.layout, plan.deployment.batch
    moe = plan.model.moe is not None
    if layout.cp > 1 or (moe and layout.ep not in (1, layout.width)):
        return None
    if not moe and layout.dp > 1:
        return None
    words = [f"vllm serve {MODEL} -tp {layout.tp}"]
    words += [f"-pp {layout.pp}"] if layout.pp > 1 else []
    words += [f"-dp {layout.dp}"] if layout.dp > 1 else []
    words += ["--enable-expert-parallel"] if moe and layout.ep > 1 else []
    words.append(f"--max-num-seqs {batch.sequences_per_rank}")
    words.append(f"--max-num-batched-tokens {batch.prefill_chunk}")
    if role != "serving":
        words.append(
            '--kv-transfer-config \'{"kv_connector": "NixlConnector", "kv_role": "kv_both"}\''
        )
    return " ".join(words)


def sglang_command(plan: Plan, role: Role) -> str | None:
    """Its --tp counts all ranks of a stage; tokens and requests are of all attention ranks."""
    layout, batch = plan.deployment.layout, plan.deployment.batch
    if layout.cp > 1:
        return None
    words = [f"python -m sglang.launch_server --model-path {MODEL} --tp {layout.width}"]
    words += [f"--pp-size {layout.pp}"] if layout.pp > 1 else []
    words += [f"--dp {layout.dp} --enable-dp-attention"] if layout.dp > 1 else []
    words += [f"--ep-size {layout.ep}"] if layout.ep > 1 else []
    words.append(f"--max-running-requests {batch.sequences_per_rank * layout.dp}")
    words.append(f"--chunked-prefill-size {batch.prefill_chunk * layout.dp}")
    words += [f"--disaggregation-mode {role}"] if role != "serving" else []
    return " ".join(words)


def trtllm_command(plan: Plan, role: Role) -> str | None:
    """None where attention is cut by TP and DP at once: it does one or the other."""
    layout, batch = plan.deployment.layout, plan.deployment.batch
    if layout.cp > 1 or (layout.dp > 1 and layout.tp > 1):
        return None
    words = [f"trtllm-serve {MODEL} --tp_size {layout.width}"]
    words += [f"--pp_size {layout.pp}"] if layout.pp > 1 else []
    words += [f"--ep_size {layout.ep}"] if layout.ep > 1 else []
    words.append(f"--max_batch_size {batch.sequences_per_rank}")
    words.append(f"--max_num_tokens {batch.prefill_chunk}")
    options = ["enable_attention_dp: true"] if layout.dp > 1 else []
    options += ["cache_transceiver_config: {backend: NIXL}"] if role != "serving" else []
    words += ["--extra_llm_api_options options.yaml"] if options else []
    return " ".join(words) + (f"   # options.yaml: {'; '.join(options)}" if options else "")


COMMANDS: Mapping[str, Callable[[Plan, Role], str | None]] = {
    "vllm": vllm_command,
    "sglang": sglang_command,
    "trtllm": trtllm_command,
}
ROUTERS: Mapping[str, str] = {
    "vllm": "a proxy that sends each request to a prefill worker with max_tokens 1, and then, with "
    "the kv_transfer_params of its answer, to a decode worker",
    "sglang": "python -m sglang_router.launch_router --pd-disaggregation "
    "--prefill http://PREFILL:PORT --decode http://DECODE:PORT",
    "trtllm": "trtllm-serve disaggregated -c disagg_config.yaml, with context_servers and "
    "generation_servers by num_instances and urls",
}
