"""Peaks: how many operations a second a device can do at most, for the share of it that a model uses."""

import torch

# Dense matrix products in bfloat16 or float16, in TFLOP/s, from the vendor's data sheets; the first name that fits counts.
_PEAKS = {
    "B200": 2250.0,
    "H200 NVL": 835.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100 NVL": 835.0,
    "H100": 989.0,
    "A100": 312.0,
    "L40S": 362.0,
    "L40": 181.0,
    "L4": 121.0,
    "A40": 149.7,
    "A10": 125.0,
}


def peak_rate(device: str, dtype: str) -> float | None:
    """Return the most operations a second of a device in a 16-bit dtype; None where it is not known."""
    if not device.startswith("cuda") or dtype == "float32":
        return None
    return known_peak(torch.cuda.get_device_name(device))


def known_peak(name: str) -> float | None:
    """Return the most operations a second of a device of this name in 16 bits; None where it is not known."""
    words = name.split()
    for known, tera in _PEAKS.items():
        first, *rest = known.split()
        if any(word == first or word.startswith(f"{first}-") for word in words) and all(one in words for one in rest):
            return tera * 1e12
    return None
