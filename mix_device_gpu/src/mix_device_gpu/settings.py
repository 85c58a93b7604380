"""What an NVIDIA GPU wants set before Paddle starts, each value with its reason and where it is published.

Generation has the cuDNN variables of PaddleMIX's scripts; understanding models have one convolution, which is
a product. Names of network cards and the index of their addresses (NCCL_SOCKET_IFNAME, NCCL_IB_HCA,
NCCL_IB_GID_INDEX) belong to a site and are never guessed.
"""

from __future__ import annotations

from collections.abc import Mapping

from mix_core.plugin_api import AllocatorPolicy, Decision, Workload

SCRIPTS = "PaddleMIX's tools/train.sh"
LAUNCHER = "paddleformers' launcher"
CUDNN = "Paddle's documentation of flags, cudnn"
CUBLAS = "NVIDIA's cuBLAS documentation, results reproducibility"
TESTS = "PaddleNLP's accuracy tests"
MEGATRON = "NVIDIA's Megatron-Core guide, deterministic training"


def environment(workload: Workload) -> Mapping[str, Decision]:
    """Variables for this workload."""
    settings = {
        "NVIDIA_TF32_OVERRIDE": Decision(
            0, f"a float32 product is one, not TF32 with 10 bits; half types do not change ({LAUNCHER})"
        )
    }
    if workload.task == "generation":
        settings["FLAGS_conv_workspace_size_limit"] = Decision(
            4096, f"MiB for cuDNN, so that the fast algorithms for large pictures qualify ({SCRIPTS})"
        )
        if not workload.deterministic:
            settings["FLAGS_cudnn_exhaustive_search"] = Decision(
                1, f"convolutions of one shape repeat all run long: each algorithm is timed once ({SCRIPTS})"
            )
    if workload.world_size > 1:
        settings |= _COLLECTIVES
    if workload.deterministic:
        settings |= _DETERMINISTIC
        if workload.world_size > 1:
            settings["NCCL_ALGO"] = Decision(
                "Ring",
                f"sums between ranks keep the order of the ring ({MEGATRON}); Tree, in {TESTS}, knows no "
                "all_gather",
            )
    return settings


def allocator(workload: Workload) -> AllocatorPolicy:
    return AllocatorPolicy(
        "auto_growth",
        "memory grows with the pictures' sizes instead of being cut from one fixed pool (Paddle's default)",
    )


def stride_kernel(workload: Workload) -> Decision:
    return Decision(True, "the card reads views in place, nothing is copied (Paddle's default)")


def blacklisted_ops(workload: Workload) -> Mapping[str, str]:
    """None: Paddle's own CUDA kernels serve every operator, and the variable reaches custom devices alone."""
    return {}


def operator_support() -> Mapping[str, object]:
    """Every operator: there is no table, Paddle's CUDA build is what other devices are compared with."""
    return {"source": "Paddle's own CUDA kernels (paddlepaddle-gpu)", "operators": None}


_COLLECTIVES = {
    "NCCL_IB_QPS_PER_CONNECTION": Decision(
        8, f"eight queue pairs to a peer spread over the paths of an InfiniBand network ({SCRIPTS})"
    ),
    "NCCL_IB_TIMEOUT": Decision(
        22, f"17 s (4.096 us * 2^22) until a silent InfiniBand peer counts as lost ({SCRIPTS})"
    ),
}
_DETERMINISTIC = {
    "FLAGS_cudnn_deterministic": Decision(
        1, f"the run asks for it: cuDNN's reproducible algorithms, and flash attention's backward ({CUDNN})"
    ),
    "FLAGS_embedding_deterministic": Decision(
        1, f"the run asks for it: gradients of embeddings are summed in one order ({TESTS})"
    ),
    "CUBLAS_WORKSPACE_CONFIG": Decision(
        ":4096:8", f"the run asks for it: products on several streams keep one algorithm ({CUBLAS})"
    ),
}
