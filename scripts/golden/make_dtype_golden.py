#!/usr/bin/env python3
"""What blocks of every dtype decode to, by gguf-py: tests/golden/dtypes.txt, read by tests/core/test_dtype_decode.cpp.

One line a block: type, the block's bytes in hex, the FNV-1a hash (64 bits) of its values as float32 bytes, and for the first block of a type
the values themselves as float32 bits. NaN of any kind counts as 0x7fc00000. Float types have "blocks" of 32 values.
The first 8 blocks of a type are random bytes under random scales, the others have extreme scales or extreme bytes.

    python make_dtype_golden.py ../../tests/golden/dtypes.txt
"""
import sys
import warnings

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType, quants

warnings.filterwarnings("ignore")  # infinities and NaN are wanted

# Where the half-precision scales lie in a block.
SCALES = {
    "Q8_0": [0], "Q4_0": [0], "Q4_1": [0, 2], "Q5_0": [0], "Q5_1": [0, 2], "Q2_K": [80, 82], "Q3_K": [108], "Q4_K": [0, 2],
    "Q5_K": [0, 2], "Q6_K": [208], "IQ4_NL": [0], "IQ4_XS": [0], "F32": [], "F16": [], "BF16": [],
}
EXTREMES = [  # the bytes of all else (None: random), and the scales in turn
    (0x00, [1.5, -0.25]), (0xFF, [1.5, -0.25]), (None, [65504, 65504]), (None, [-65504, 65504]), (None, [2**-24, -(2**-24)]),
    (None, [0.0, -0.0]), (None, [-0.0, 0.0]), (None, [np.inf, 1]), (None, [1, -np.inf]), (None, [np.nan, 1]), (None, [1, np.nan]),
]


def fnv1a(data: bytes) -> int:
    value = 0xCBF29CE484222325
    for byte in data:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def with_scales(block: np.ndarray, at: list[int], scales) -> np.ndarray:
    for place, scale in zip(at, scales):
        block[place : place + 2] = np.array([scale], "<f2").view(np.uint8)
    return block


def blocks_of(name: str, size: int, random: np.random.Generator):
    for _ in range(8):
        yield with_scales(random.integers(0, 256, size, np.uint8), SCALES[name], random.normal(0, 0.05, 2))
    for fill, scales in EXTREMES if SCALES[name] else []:
        block = random.integers(0, 256, size, np.uint8) if fill is None else np.full(size, fill, np.uint8)
        yield with_scales(block, SCALES[name], scales)


def main() -> None:
    random = np.random.default_rng(5)
    with open(sys.argv[1], "w") as out:
        for name in SCALES:
            kind = GGMLQuantizationType[name]
            values, size = GGML_QUANT_SIZES[kind]
            if values == 1:
                size *= 32
            for number, block in enumerate(blocks_of(name, size, random)):
                decoded = np.asarray(quants.dequantize(block.reshape(1, -1), kind), "<f4").reshape(-1)
                bits = np.where(np.isnan(decoded), np.uint32(0x7FC00000), decoded.view("<u4")).astype("<u4")
                line = f"{name.lower()} {block.tobytes().hex()} {fnv1a(bits.tobytes()):016x}"
                print(line + (" " + ",".join(f"{b:x}" for b in bits) if number == 0 else ""), file=out)


if __name__ == "__main__":
    main()
