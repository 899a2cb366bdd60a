"""The exercises, one module each, and the assignments that they belong to."""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # the exercises load torch; their names do not
    from llmr_ref.grading.exercise import Exercise

ASSIGNMENTS: dict[str, tuple[str, ...]] = {
    "ngrams": (
        "count_ngrams",
        "maximum_likelihood",
        "add_k",
        "witten_bell",
        "sequence_log_probability",
        "perplexity",
        "bits_per_unit",
        "next_token_distribution",
    ),
    "tokenizer": (
        "split_words",
        "count_pairs",
        "best_pair",
        "merge_pair",
        "train_bpe",
        "bpe_encode",
        "bpe_decode",
        "split_special",
    ),
    "recurrence": (
        "window_logits",
        "rnn_states",
        "bidirectional_states",
        "classify_sequences",
        "series_regression",
        "attend_to_source",
        "target_log_probability",
    ),
    "attention": (
        "softmax",
        "scaled_dot_product_attention",
        "causal_mask",
        "rope_angles",
        "apply_rope",
        "MultiHeadSelfAttention",
    ),
    "transformer": (
        "two_matrices",
        "training_mask",
        "parallel_gap",
        "layer_norm",
        "rms_norm",
        "feed_forward",
        "grouped_query_attention",
        "residual_block",
        "unembed",
        "transformer_logits",
        "NopeModel",
    ),
    "positions": (
        "equivariance_gap",
        "sinusoidal_encoding",
        "relative_buckets",
        "relative_bias",
        "alibi_slopes",
        "alibi_bias",
        "turns",
        "interpolated_angles",
        "ntk_frequencies",
        "yarn_frequencies",
        "yarn_scores",
    ),
    "backprop": (
        "neuron_step",
        "numerical_gradient",
        "Value",
        "softmax_backward",
        "cross_entropy_backward",
        "linear_backward",
        "layer_norm_backward",
        "attention_backward",
    ),
    "training": (
        "padded_batch",
        "packed_batch",
        "next_token_loss",
        "bits_per_byte",
        "accumulate_gradients",
        "AdamW",
        "learning_rate",
        "clip_gradients",
        "train_model",
    ),
    "accounting": (
        "parameter_counts",
        "flops_per_token",
        "training_memory",
        "kv_cache_bytes",
        "training_time",
        "fit_power_law",
        "isoflop_minimum",
        "compute_optimal",
    ),
    "inference": (
        "temperature_distribution",
        "keep_top_k",
        "keep_top_p",
        "keep_min_p",
        "penalize_repetition",
        "sampling_distribution",
        "KVCache",
        "beam_search_step",
        "quantize_absmax",
        "pack_int4",
        "quantized_linear",
    ),
    "posttraining": (
        "chat_example",
        "sft_loss",
        "preference_loss",
        "kl_to_reference",
        "reinforce_loss",
        "group_advantages",
        "clipped_objective",
        "learn_to_add",
    ),
}

_MODULES = {
    "MultiHeadSelfAttention": "multi_head_self_attention",
    "Value": "value",
    "KVCache": "kv_cache",
    "AdamW": "adamw",
    "NopeModel": "nope_model",
}


def exercise_names() -> list[str]:
    """Every exercise of every assignment, in order."""
    return [name for names in ASSIGNMENTS.values() for name in names]


def get_exercise(name: str) -> "Exercise":
    """The exercise called `name`. Raises: KeyError, naming those that exist."""
    if name not in exercise_names():
        raise KeyError(f"there is no exercise {name!r}; there are: {', '.join(exercise_names())}")
    module = importlib.import_module(f"{__name__}.{_MODULES.get(name, name)}")
    exercise: Exercise = module.exercise
    return exercise


def assignment_exercises(assignment: str) -> "list[Exercise]":
    """The exercises of an assignment, in order. Raises: KeyError, naming those that exist."""
    if assignment not in ASSIGNMENTS:
        known = ", ".join(ASSIGNMENTS)
        raise KeyError(f"there is no assignment {assignment!r}; there are: {known}")
    return [get_exercise(name) for name in ASSIGNMENTS[assignment]]
