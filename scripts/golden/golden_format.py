"""The binary form of the golden data. All little-endian, nothing padded; tests/support/golden_file.hpp reads it.

    magic       8 bytes   "BAGOLD01"
    width       u32       D, model width
    vocabulary  u32       V
    model_size  u64       bytes of the model file that the data belongs to
    model_sha   32 bytes  its SHA-256
    cases       u32
  and for each case:
    name        u32 n, then n bytes
    tokens      u32       T
    blocks      u32       B, blocks of the prompt; 1 for full mode
    local       u32       the first `local` blocks attend to themselves only, what follows attends to everything before it; 0 for full mode
    max_blocks  i32       the plan that gave `local`: at most so many blocks, -1 for no limit; what follows them joins the final block
    global      u32       and the last so many blocks are global
    samples     u32       S
    lengths     u32 [B]   tokens of each block, sum T
    ids         u16 [T]   token ids
    argmax      u16 [T]   the oracle's most probable next token
    margin      f16 [T]   its logit minus that of the second, in float16
    positions   u32 [S]   sampled positions, ascending
    llama_kl    f32 [S]   KL(oracle || llama.cpp) at these positions, natural logarithm
    hidden      f16 [S,D] the oracle's hidden state after the last norm; logits = output matrix (dequantised) times it
  With the magic "BAGOLD02" ids and argmax are u32: for vocabularies of more than 65,536 tokens.
"""
from __future__ import annotations

import dataclasses
import struct

import numpy as np

MAGIC, WIDE_MAGIC = b"BAGOLD01", b"BAGOLD02"


@dataclasses.dataclass
class Case:
    name: str
    lengths: list[int]
    local: int
    max_blocks: int
    global_blocks: int
    ids: list[int]
    argmax: np.ndarray  # [T]
    margin: np.ndarray  # [T]
    positions: np.ndarray  # [S]
    llama_kl: np.ndarray  # [S]
    hidden: np.ndarray  # [S, D]


def _pack(case: Case, id_type: str) -> bytes:
    name = case.name.encode()
    head = struct.pack("<I", len(name)) + name
    head += struct.pack(
        "<IIIiII",
        len(case.ids),
        len(case.lengths),
        case.local,
        case.max_blocks,
        case.global_blocks,
        len(case.positions),
    )
    parts = [
        (case.lengths, "<u4"),
        (case.ids, id_type),
        (case.argmax, id_type),
        (np.minimum(case.margin, 65504), "<f2"),
        (case.positions, "<u4"),
        (case.llama_kl, "<f4"),
        (case.hidden, "<f2"),
    ]
    return head + b"".join(np.asarray(values).astype(kind).tobytes() for values, kind in parts)


def pack(width: int, vocabulary: int, model_size: int, model_sha: bytes, cases: list[Case]) -> bytes:
    assert len(model_sha) == 32
    wide = vocabulary > 65536
    head = (WIDE_MAGIC if wide else MAGIC) + struct.pack("<IIQ", width, vocabulary, model_size) + model_sha + struct.pack("<I", len(cases))
    return head + b"".join(_pack(case, "<u4" if wide else "<u2") for case in cases)
