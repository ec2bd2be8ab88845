"""Logits of llama.cpp (through llama-cpp-python's low-level API) for a prompt, in full or in block mode.

Block mode needs nothing from llama.cpp but sequences: each local block is decoded as a sequence of its own, at its place in the prompt, so that it sees
itself only; then all are copied into one sequence, in which the rest of the prompt is decoded and sees everything before it.
"""
from __future__ import annotations

import ctypes
import pathlib

import llama_cpp
import numpy as np


class LlamaReference:
    """One model file in llama.cpp on the processor, KV cache in float16 (its default)."""

    def __init__(self, path: pathlib.Path, threads: int, flash_attention: bool = False, batch: int = 512):
        llama_cpp.llama_log_set(_SILENT, ctypes.c_void_p(0))
        params = llama_cpp.llama_model_default_params()
        params.n_gpu_layers = 0
        self._model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
        if not self._model:
            raise SystemExit(f"[llama] {path} can't be loaded")
        self._vocabulary = llama_cpp.llama_model_get_vocab(self._model)
        self.vocab_size = llama_cpp.llama_vocab_n_tokens(self._vocabulary)
        self._threads, self._flash, self._batch = threads, flash_attention, batch

    def tokenize(self, text: str) -> list[int]:
        data = text.encode()
        room = (llama_cpp.llama_token * (len(data) + 8))()
        count = llama_cpp.llama_tokenize(self._vocabulary, data, len(data), room, len(room), False, True)
        if count < 0:
            raise SystemExit(f"[llama] tokenising needs {-count} tokens")
        return list(room[:count])

    def logits(self, ids: list[int], lengths: list[int] | None = None, local_blocks: int = 0) -> np.ndarray:
        """float32 [T, V]. The first `local_blocks` of `lengths` see themselves only, the rest sees everything before it."""
        lengths = lengths or [len(ids)]
        context = self._context(len(ids), local_blocks + 1)
        out = np.empty((len(ids), self.vocab_size), dtype=np.float32)
        memory = llama_cpp.llama_get_memory(context)
        start = 0
        for sequence, length in enumerate(lengths[:local_blocks], start=1):
            self._decode(context, ids, start, start + length, sequence, out)
            llama_cpp.llama_memory_seq_cp(memory, sequence, 0, -1, -1)
            start += length
        self._decode(context, ids, start, len(ids), 0, out)
        llama_cpp.llama_free(context)
        return out

    def _context(self, tokens: int, sequences: int):
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = (tokens + 255) // 256 * 256
        params.n_batch = params.n_ubatch = self._batch
        params.n_threads = params.n_threads_batch = self._threads
        params.n_seq_max = sequences
        params.kv_unified = True
        params.flash_attn_type = (
            llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED if self._flash else llama_cpp.LLAMA_FLASH_ATTN_TYPE_DISABLED
        )
        context = llama_cpp.llama_init_from_model(self._model, params)
        if not context:
            raise SystemExit(f"[llama] no context for {tokens} tokens")
        return context

    def _decode(self, context, ids: list[int], begin: int, end: int, sequence: int, out: np.ndarray) -> None:
        for first in range(begin, end, self._batch):
            count = min(self._batch, end - first)
            batch = llama_cpp.llama_batch_init(count, 0, 1)
            batch.n_tokens = count
            for i in range(count):
                batch.token[i] = ids[first + i]
                batch.pos[i] = first + i
                batch.n_seq_id[i] = 1
                batch.seq_id[i][0] = sequence
                batch.logits[i] = True
            status = llama_cpp.llama_decode(context, batch)
            if status != 0:
                raise SystemExit(f"[llama] llama_decode gave {status} at position {first} of sequence {sequence}")
            values = llama_cpp.llama_get_logits(context)
            out[first : first + count] = np.ctypeslib.as_array(values, shape=(count * self.vocab_size,)).reshape(
                count, self.vocab_size
            )
            llama_cpp.llama_batch_free(batch)


@llama_cpp.llama_log_callback
def _SILENT(level, text, user_data):  # noqa: N802 (a callback that must outlive the model)
    pass
