"""The CPU's device plugin. It is registered by entry point and takes the same route as anyone else's.

Its settings repair what Paddle's CPU wheel leaves slow: one OpenMP thread, MKL's slow path on processors that
are not Intel's, and page faults on every output.
"""

from __future__ import annotations

import ctypes
import os
import platform
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mix_core.device import cpu_heap
from mix_core.device.cpu_topology import Processor, available_cores, read_processor
from mix_core.plugin_api import (
    Capability,
    Check,
    Collective,
    Decision,
    DeviceError,
    DeviceProfile,
    DeviceRuntime,
    Figure,
    Kernel,
    KernelRequest,
    NoKernel,
    Probe,
    VersionRange,
    Workload,
    hookimpl,
    pack_generator_state,
    unpack_generator_state,
)

if TYPE_CHECKING:
    import numpy as np

MIX_PLUGIN_API = (1, 0)

MKL_PATH = "MKL_DEBUG_CPU_TYPE"
AVX512_FLAGS = frozenset({"avx512f", "avx512dq", "avx512bw", "avx512vl"})
AVX2_FLAGS = frozenset({"avx2", "fma"})
BFLOAT16_FLAGS = AVX512_FLAGS | {"avx512_bf16"}
MKL_TOLERANCE = 1e-5
"""Relative error in norm against float64; 3.3e-7 was measured, a wrong code path is off by orders."""

MMAP_THRESHOLD_BYTES = 256 << 20
TRIM_THRESHOLD_BYTES = 512 << 20
"""Measured on a Qwen2.5-VL of 51.6 M parameters, 1,024 tokens a step, 2 Xeon cores: page faults a step fall
from 154,000 to 16,000, peak memory grows from 1,595 to 1,755 MiB. Larger thresholds gave the same faults and
keep more memory idle; smaller ones (16 MiB) left most faults. Both have to fit the C int of mallopt."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h


@hookimpl
def mix_probe() -> Probe:
    _, reason = available_cores()
    return Probe("usable", 1, f"{platform.machine()}, {reason}")


@hookimpl
def mix_profile() -> DeviceProfile:
    return DeviceProfile(
        name="cpu",
        device_type="cpu",
        vendor=read_processor().vendor or platform.machine(),
        priority=0,
        # paddle.amp.is_bfloat16_supported() says True here, yet every bf16 and fp16 operator raises.
        dtypes={"default": ("float32", "float64"), "products": ("float32", *narrow_products())},
        capabilities=frozenset({Capability.COLLECTIVES, Capability.INT8_WEIGHTS, Capability.MEMORY_STATS}),
        collective=Collective("gloo", scatter_by_all_reduce=True),
        memory_bytes=_total_memory(),
        paddle_versions=VersionRange(">=3.3.1,<3.4", "the wheel the settings were measured with"),
    )


def narrow_products() -> tuple[str, ...]:
    """What this processor multiplies float32 numbers in beside float32 (csrc/ops/gemm_tiles.h)."""
    return ("bfloat16",) if read_processor().flags >= BFLOAT16_FLAGS else ()


@hookimpl
def mix_environment(workload: Workload) -> Mapping[str, Decision]:
    cores, reason = available_cores()
    threads = max(1, cores // workload.world_size)
    shared = f", shared by {workload.world_size} processes" if workload.world_size > 1 else ""
    decisions = {
        "OMP_NUM_THREADS": Decision(str(threads), f"{reason}{shared}; paddle alone sets 1", "import"),
        # 2 Xeon cores: same step time on an idle machine, 5 to 20 % less processor time on a busy one
        "KMP_BLOCKTIME": Decision(
            "1", "idle threads sleep after 1 ms, not 200; data workers need the cores", "import"
        ),
    }
    path = mkl_path(read_processor())
    if path is not None:
        decisions[MKL_PATH] = path
    return decisions | malloc_decisions()


def mkl_path(processor: Processor) -> Decision | None:
    """The wheel's MKL picks a slow path on other vendors' processors; name the right one by its flags."""
    if processor.vendor in ("", "GenuineIntel"):
        return None
    if processor.flags >= AVX512_FLAGS:
        return Decision("7", "MKL's AVX-512 path: this processor has it, MKL uses it on Intel only", "import")
    if processor.flags >= AVX2_FLAGS:
        return Decision("5", "MKL's AVX2 path: this processor has it, MKL uses it on Intel only", "import")
    return None


def malloc_decisions() -> dict[str, Decision]:
    """The thresholds as variables for a process that starts, and as calls for one that runs."""
    if platform.libc_ver()[0] != "glibc":
        return {}
    why = "results reuse pages instead of faulting on fresh ones: a tenth of the page faults a step"
    found = {
        "MALLOC_MMAP_THRESHOLD_": Decision(
            str(MMAP_THRESHOLD_BYTES),
            why,
            "process",
            lambda: _mallopt(_M_MMAP_THRESHOLD, MMAP_THRESHOLD_BYTES),
        ),
        "MALLOC_TRIM_THRESHOLD_": Decision(
            str(TRIM_THRESHOLD_BYTES),
            why,
            "process",
            lambda: _mallopt(_M_TRIM_THRESHOLD, TRIM_THRESHOLD_BYTES),
        ),
    }
    if _has_huge_pages():
        # the same model: a step takes 0.96 of the time, a decoded token 0.87
        found["GLIBC_TUNABLES"] = Decision(
            "glibc.malloc.hugetlb=1", "weights and results lie in pages of 2 MiB", "process", required=False
        )
    return found


def _has_huge_pages() -> bool:
    """Whether Linux gives pages of 2 MiB to who asks, and this glibc (2.35 on) can be told to ask."""
    try:
        policy = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text(encoding="ascii")
    except OSError:
        return False
    version = tuple(int(part) for part in platform.libc_ver()[1].split(".")[:2])
    return "[never]" not in policy and version >= (2, 35)


def _mallopt(parameter: int, value: int) -> None:
    if ctypes.CDLL(None).mallopt(ctypes.c_int(parameter), ctypes.c_int(value)) != 1:
        raise DeviceError(f"mallopt({parameter}, {value}) was refused by the C library")


def _total_memory() -> Figure | None:
    kilobytes = _proc_fields(Path("/proc/meminfo")).get("MemTotal")
    return None if kilobytes is None else Figure(kilobytes * 1024, "/proc/meminfo MemTotal")


def _proc_fields(path: Path) -> dict[str, int]:
    """The `Name:  123 kB` lines of a file in /proc, in kilobytes."""
    fields = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if value.endswith(" kB"):
            fields[key] = int(value.split()[0])
    return fields


class CpuRuntime:
    """The host itself: nothing to wait for, memory is the process's resident set."""

    def synchronize(self) -> None:
        return None

    def memory_stats(self) -> dict[str, int]:
        """Resident bytes of this process, now and at most.

        From /proc rather than getrusage, whose peak starts with that of the process that called exec.
        """
        fields = _proc_fields(Path("/proc/self/status"))
        return {"allocated": fields["VmRSS"] * 1024, "peak": fields["VmHWM"] * 1024}

    def reset_peak_memory(self) -> None:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # 5 resets VmHWM

    def empty_cache(self) -> None:
        cpu_heap.release()
        ctypes.CDLL(None).malloc_trim(0)

    def get_random_state(self) -> dict[str, np.ndarray]:
        import paddle

        return pack_generator_state(paddle.get_rng_state("cpu")[0])

    def set_random_state(self, state: Mapping[str, np.ndarray]) -> None:
        import paddle

        current = paddle.get_rng_state("cpu")[0]
        paddle.set_rng_state([unpack_generator_state(state, current)], "cpu")

    def properties(self) -> dict[str, Any]:
        processor = read_processor()
        cores, counted = available_cores()
        memory = _total_memory()
        return {
            "name": processor.model or platform.machine(),
            "vendor": processor.vendor,
            "cores": cores,
            "cores_counted": counted,
            "memory_bytes": None if memory is None else int(memory.value),
        }


@hookimpl
def mix_kernel(op: str, request: KernelRequest) -> Kernel | NoKernel:
    from mix_core.device import cpu_kernels

    return cpu_kernels.select(op, request)


@hookimpl
def mix_runtime(index: int) -> DeviceRuntime:
    if index != 0:
        raise DeviceError(f"cpu:{index} does not exist: the host is one device, cpu")
    from mix_core.device import native_build

    native_build.refuse_unknown_set()
    cpu_heap.refuse_unknown()
    if MKL_PATH in os.environ:
        _verify_matmul()
    return CpuRuntime()


def _verify_matmul() -> str:
    """Compare a float32 product with float64: the code path that MKL was told to take must be right."""
    import numpy as np
    import paddle

    rng = np.random.default_rng(0)
    a_MK = rng.standard_normal((192, 320), dtype=np.float32)
    b_KN = rng.standard_normal((320, 256), dtype=np.float32)
    exact = a_MK.astype(np.float64) @ b_KN.astype(np.float64)
    got = paddle.matmul(paddle.to_tensor(a_MK, place="cpu"), paddle.to_tensor(b_KN, place="cpu")).numpy()
    error = float(np.linalg.norm(got - exact) / np.linalg.norm(exact))
    if not error < MKL_TOLERANCE:
        raise DeviceError(
            f"a float32 product is wrong by {error:.1e} with {MKL_PATH}={os.environ.get(MKL_PATH)} "
            f"(at most {MKL_TOLERANCE:.0e} expected); set {MKL_PATH} to another value, or to nothing"
        )
    return f"float32 product agrees with float64 to {error:.1e}"


@hookimpl
def mix_checks() -> list[Check]:
    return [Check("matmul against float64", _verify_matmul), Check("C++ operators", _operators)]


def _operators() -> str:
    """Build and load them; where that is not possible, the reference operators run, which is no failure."""
    from mix_core.device import native_build

    found = native_build.load()
    if found.library is None:
        return f"none, the reference operators run: {found.reason}"
    return f"{found.library}, instruction set {native_build.instruction_set()}, tensors in {cpu_heap.name()}"
