"""Defects of devices and plugins, each with the cases that must turn red.

A defect is a value of FAULTY_DEFECT (tests/plugins/faulty) or faults of the simulated device
(MIX_SIM_FAULTS).
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Defect:
    """One thing that is wrong."""

    name: str
    caught_by: tuple[str, ...]
    """Cases, or patterns; one of each pattern's has to be red."""
    faults: str = ""
    """Of the simulated device; else the plugin has the defect."""


def _of(text: str) -> tuple[Defect, ...]:
    """`name: case, case` in each line."""
    rows = (line.split(": ", 1) for line in text.strip().splitlines())
    return tuple(Defect(name.strip(), tuple(cases.split(", "))) for name, cases in rows)


PLUGIN = _of(
    """
    import_raises: L0/plugin/loads
    import_paddle: L0/plugin/*
    api_major: L0/plugin/loads
    unknown_hook: L0/plugin/loads
    hook_imports_paddle: L0/pure/mix_environment
    hook_sets_variable: L0/pure/mix_environment
    slow_probe: L0/probe/time
    probe_opens_device: L0/pure/mix_probe
    probe_starts_program: L0/pure/mix_probe
    profile_changes: L0/profile/same
    unknown_dtype: L0/profile/dtypes
    no_backend: L0/profile/collective
    no_reason: L0/settings/compose
    black_list_unknown: L0/settings/black_list
    black_list_not_applied: L2/black_list/applied
    table_unknown_dtype: L0/support/table
    exception_matches_nothing: L0/exceptions/match
    expected_failure_passes: L3/swiglu/plain/float32
    synchronize_raises: L1/order/synchronize
    statistics_constant: L1/memory/stats/grow
    statistics_half: L1/memory/stats/grow
    statistics_never_fall: L1/memory/stats/fall
    no_peak: L1/memory/stats/keys
    leak: L1/memory/stats/leak
    peak_not_reset: L1/memory/stats/peak
    empty_cache_raises: L1/memory/empty_cache
    random_state_not_restored: L1/random/state
    random_state_partial: L1/random/state_on_host
    no_name: L1/memory/properties
    attention_window: L3/attention/window/float32
    attention_scale: L3/attention/scale/float32
    attention_mask_inverted: L3/attention/mask/float32
    attention_groups: L3/attention/plain/float32
    attention_top_left: L3/attention/causal+more_keys/float32
    packed_window: L3/attention_packed/causal+window/float32
    packed_last_segment: L3/attention_packed/plain/float32
    packed_crosses: L3/attention_packed/plain/float32
    decode_one_more: L3/attention_decode/plain/float32
    rms_epsilon: L3/rms_norm/small_numbers/float32
    rms_narrow_statistics: L3/rms_norm/large_numbers/float16
    rms_wide_result: L3/rms_norm/plain/bfloat16
    rms_keeps_memory: L5/qwen2_5_vl/memory/float32
    rms_on_host: L3/rms_norm/plain/float32
    add_rms_sum_forgotten: L3/add_rms_norm/plain/float32
    layer_norm_unbiased: L3/layer_norm/plain/float32
    group_norm_one_group: L3/group_norm/plain/float32
    conv2d_turned: L3/conv2d/plain/float32
    conv2d_one_sided: L3/conv2d/plain/float32
    rotary_pairs: L3/rotary/plain/float32
    rotary_k_only: L3/rotary/plain/float32
    swiglu_gradient: L3/swiglu/plain/float32
    swiglu_swapped: L3/swiglu/plain/float32
    swiglu_spoils_input: L3/swiglu/plain/float32
    swiglu_last_numbers: L3/swiglu/odd_size/float32
    gelu_tanh: L3/gelu/erf+plain/float32
    linear_no_bias_gradient: L3/linear/plain/float32
    linear_narrow: L3/linear/plain/float32
    head_scaled: L3/head_logits/plain/float32
    loss_ignore_index: L3/linear_cross_entropy/another_ignore_index/float32
    loss_mean: L3/linear_cross_entropy/plain/float32
    loss_count: L3/linear_cross_entropy/count/float32
    adamw_no_correction: L3/adamw/first_step/float32
    adamw_coupled_decay: L3/adamw/first_step/float32
    adamw_grad_scale: L3/adamw/scaled_gradients/float32
    adamw_last_parameter: L3/adamw/first_step/float32
    sampling_top_k: L3/sampling/top_k/float32
    sampling_top_p: L3/sampling/top_p/float32
    sampling_temperature: L3/sampling/temperature_2/float32
    sampling_dtype: L3/sampling/greedy/float32
    """
)
SIMULATED = (
    Defect("copies change a byte", ("L1/copy/arrives",), "copy:corrupt"),
    Defect("the 30th copy changes a byte", ("L1/copy/repeated",), "copy:corrupt,nth=30"),
    Defect("copies fail", ("L1/copy/round_trip/3",), "copy:fail"),
    Defect("events are dropped", ("L1/order/event",), "event:drop"),
    Defect("large allocations fail", ("L1/memory/out/limit",), "alloc:fail,above=1000000"),
    Defect("float32 is rounded to bfloat16", ("L2/op/matmul/matmul/contiguous/float32",), "results:bfloat16"),
    Defect(
        "add is wrong at its first number", ("L2/op/add/add/contiguous/float32",), "operator:wrong,name=add"
    ),
    Defect(
        "a gradient is wrong", ("L2/op/matmul/matmul/contiguous/float32",), "operator:wrong,name=matmul_grad"
    ),
    Defect("softmax is wrong", ("L2/op/softmax/softmax/contiguous/float32",), "operator:wrong,name=softmax"),
    Defect("matmul is missing", ("L2/strict/matmul/matmul/float32",), "operator:missing,name=matmul"),
    Defect("gather is wrong", ("L2/op/gather/gather/contiguous/float32",), "operator:wrong,name=gather"),
    Defect(
        "all_reduce is wrong",
        (
            "L6/collective/all_reduce_sum/float32",
            "L6/data_parallel/*",
            "L6/tensor_parallel/*",
            "L6/pipeline/*",
        ),
        "all_reduce:wrong",
    ),
    Defect("the 60th all_reduce is wrong", ("L6/collective/repeated",), "all_reduce:wrong,nth=60"),
    Defect("a rank dies", ("L6/collective/broadcast/float32",), "rank:dead,rank=1,nth=9"),
)
DEFECTS = (*PLUGIN, *SIMULATED)
HARMLESS = ("stream:stall,ms=2", "rank:slow,rank=1,ms=5")
"""Faults that a right program does not notice."""
