"""Peak rates of devices, for model FLOPs utilisation. No torch, so that a plan needs none."""

from __future__ import annotations

# Dense bf16 peaks in TFLOP/s by what the device's name contains, from the makers' data sheets; the
# first that fits counts.
PEAK_TFLOPS = (
    ("B200", 2250.0), ("GH200", 989.0), ("H200", 989.0), ("H100 PCIe", 756.0), ("H100 NVL", 835.0),
    ("H100", 989.0), ("H800", 989.0), ("A100", 312.0), ("A800", 312.0), ("L40S", 362.0),
    ("L4", 121.0), ("A10G", 70.0), ("RTX 4090", 165.0), ("RTX 3090", 71.0),
)


def peak_of(name: str) -> float | None:
    """The dense bf16 peak in TFLOP/s of the device of that name; None where it is not in the
    table.
    """
    return next((peak for part, peak in PEAK_TFLOPS if part in name), None)
