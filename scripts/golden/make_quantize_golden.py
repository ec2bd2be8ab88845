#!/usr/bin/env python3
"""What rows of 32 values are quantised to by gguf-py, whose rules are those of ggml's reference quantisers: tests/golden/quantized.txt, read by tests/core/test_dtype_encode.cpp.

One line a row: type, the values as the hex of little-endian float32, the block's bytes in hex.

    python make_quantize_golden.py ../../tests/golden/quantized.txt
"""
import sys

import numpy as np
from gguf import GGMLQuantizationType, quants


def rows(random: np.random.Generator):
    for scale in (1, 0.02, 1e-6, 300, 1e5):
        for _ in range(4):
            yield random.normal(0, scale, 32)
    yield np.zeros(32)
    yield -np.zeros(32)
    yield np.full(32, -3.5)
    yield np.where(np.arange(32) % 2, 1.0, -1.0)  # magnitudes that tie: the first one's sign counts
    yield np.where(np.arange(32) % 2, -1.0, 1.0)
    yield np.arange(32) - 16.0
    yield (np.arange(32) - 15.5) / 127  # halves
    yield np.linspace(-127, 127, 32).round() + 0.5
    yield np.full(32, 4e-8)  # its scale is below half precision's smallest
    yield np.full(32, 8e6)  # its scale is near to half precision's largest, for q8_0
    one = np.zeros(32)
    one[17] = 123.25
    yield one


def main() -> None:
    random = np.random.default_rng(8)
    with open(sys.argv[1], "w") as out:
        for row in rows(random):
            values = np.asarray(row, "<f4").reshape(1, -1)
            for name in ("Q8_0", "Q4_0"):
                if name == "Q4_0" and np.abs(values).max() / 8 > 65504:
                    continue
                block = quants.quantize(values, GGMLQuantizationType[name])
                print(name.lower(), values.tobytes().hex(), block.tobytes().hex(), file=out)


if __name__ == "__main__":
    main()
