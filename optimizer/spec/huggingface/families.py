"""What modelling code fixes and config.json does not say, by model_type.

Source: the modelling files of each architecture in the transformers library and in the models' own
repositories.
"""

from __future__ import annotations

from typing import NamedTuple


class Family(NamedTuple):
    """The traits of one architecture; the defaults are Llama's."""

    qk_norm: bool = False  # a norm over head_dim on q and k
    qkv_bias: bool = False  # biases on q, k, v whatever the config says
    output_bias: bool = True  # attention_bias covers the output projection too
    sinks: bool = False
    shared_gate: bool = False
    expert_bias: bool = False
    router_correction: bool = False
    shared_expert: bool = False  # one shared expert of a routed expert's size, unannounced


_QWEN3 = Family(qk_norm=True)
_QWEN3_GATED = Family(qk_norm=True, shared_gate=True)

FAMILIES: dict[str, Family] = {
    "llama": Family(),
    "mistral": Family(),
    "mixtral": Family(),
    "qwen2": Family(qkv_bias=True),
    "qwen2_moe": Family(qkv_bias=True, shared_gate=True),
    "qwen3": _QWEN3,
    "qwen3_moe": _QWEN3,
    "qwen3_next": _QWEN3_GATED,
    "qwen3_5_text": _QWEN3_GATED,
    "qwen3_5_moe_text": _QWEN3_GATED,
    "deepseek_v2": Family(),
    "deepseek_v3": Family(),
    "deepseek_v32": Family(),
    "kimi_k2": Family(),
    "glm4_moe": Family(output_bias=False, router_correction=True),
    "glm_moe_dsa": Family(),
    "gpt_oss": Family(sinks=True, expert_bias=True),
    "llama4_text": Family(shared_expert=True),
    "minimax_m2": Family(),
}

# Keys that cost neither bytes nor time in inference.
_FREE = """
_attn_implementation _name_or_path add_cross_attention architectures attention_multiplier
attention_probs_dropout_prob attn_scale attn_temperature_tuning auto_map aux_loss_alpha
bad_words_ids begin_suppress_tokens chunk_size_feed_forward cross_attention_hidden_size
diversity_penalty do_sample dtype early_stopping encoder_no_repeat_ngram_size ep_size
exponential_decay_length_penalty finetuning_task floor_scale hidden_act hidden_activation id2label
ignore_index indexer_rope_interleave initial_context_length initializer_range is_decoder
is_encoder_decoder label2id layer_norm_eps length_penalty logit_scale logits_scaling
mamba_ssm_dtype max_length max_window_layers min_length model_type mtp_use_dedicated_embeddings
n_group no_repeat_ngram_size norm_eps norm_topk_prob num_attention_groups num_beam_groups
num_beams num_return_sequences output_attentions output_hidden_states output_router_logits
output_scores partial_rotary_factor prefix pretraining_tp problem_type pruned_heads qk_head_dim
query_pre_attn_scalar remove_invalid_values repetition_penalty return_dict return_dict_in_generate
rms_norm_eps rope_interleave rope_local_base_freq rope_parameters rope_scaling rope_theta
rotary_dim routed_scaling_factor router_aux_loss_coef router_jitter_noise router_z_loss_coef
scoring_func seq_aux suppress_tokens swiglu_limit task_specific_params temperature tf_legacy_loss
tie_encoder_decoder tokenizer_class top_k top_p topk_group torch_dtype torchscript
transformers_version typical_p use_bfloat16 use_cache use_unified_vision_chunk video_placeholder
vocab_file
"""
FREE = frozenset(_FREE.split())
FREE_ENDINGS = ("_token_id", "_token_index", "_dropout", "_dropout_prob", "_token_ids")
