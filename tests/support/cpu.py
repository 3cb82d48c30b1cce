"""Instruction sets that the CPU at hand can imitate."""

from __future__ import annotations

from pathlib import Path

# By what the CPU at hand must have to imitate each (ONEDNN_MAX_CPU_ISA).
_FLAGS = {
    "AVX2": "avx2",
    "AVX2_VNNI": "avx_vnni",
    "AVX512_CORE": "avx512bw",
    "AVX512_CORE_VNNI": "avx512_vnni",
    "AVX512_CORE_AMX": "amx_int8",
}
_CPU = set(Path("/proc/cpuinfo").read_text().partition("flags")[2].partition("\n")[0].split())
INSTRUCTION_SETS = [name for name, flag in _FLAGS.items() if flag in _CPU]
