#!/usr/bin/env python3
"""Makes tests/golden/families.json: tiny models of every family, and transformers' logits for them.

    python make_family_golden.py --out ../../tests/golden/families.json [--gguf FOLDER]

Weights aren't stored: value i of a tensor is a hash of its name and i, the same here and in tests/support/hashed_model.hpp,
    x = fnv1a32(name) + i * 0x9e3779b9;  x = murmur3's 32-bit finaliser of x;  value = ((x >> 8) * 2^-23 - 1) * scale + offset
in float32, scales being powers of two. They are made under llama.cpp's names and in its layout, and brought from there to transformers' own classes (float32,
eager attention): RoPE pairs (2i, 2i+1) of llama, mistral and smollm3 become (i, i + Dh/2), Gemma's norms lose the 1 that GGUF adds, fused matrices stay fused.
Full mode is the model called with ids alone, so that transformers makes its own mask; block mode is a 4-D mask (a token of a local block sees its own block up
to itself, the last block sees all; both within the sliding window) with global positions. With --gguf the same models are written by gguf-py, for other programs.

Each case also has what transformers' save_pretrained wrote of it: config.json as it is, and the names of the tensors in model.safetensors; the tests write such folders
anew. Cases that are "folder_only" say what GGUF files have no key for, or have weights rounded to another type.
"""
from __future__ import annotations

import argparse
import json
import math
import pathlib
import tempfile

import gguf
import numpy as np
import safetensors
import torch
import transformers

VOCABULARY, WIDTH, INNER = 64, 64, 96
LENGTHS = [10, 17, 13, 16]
FULL_ROWS, BLOCK_ROWS = [0, 20, 39, 55], [5, 24, 40, 47, 55]
IDS = [(7 * i * i + 3 * i + 5) % VOCABULARY for i in range(sum(LENGTHS))]


def hashed(name: str, count: int, scale: float, offset: float) -> np.ndarray:
    seed = 0x811C9DC5
    for byte in name.encode():
        seed = ((seed ^ byte) * 0x01000193) & 0xFFFFFFFF
    x = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B9) + np.uint32(seed)
    x ^= x >> np.uint32(16)
    x *= np.uint32(0x85EBCA6B)
    x ^= x >> np.uint32(13)
    x *= np.uint32(0xC2B2AE35)
    x ^= x >> np.uint32(16)
    return (((x >> np.uint32(8)).astype(np.float32) * np.float32(2**-23) - np.float32(1)) * np.float32(scale) + np.float32(offset)).astype(np.float32)


class Case:
    """One tiny model: what its GGUF file holds, and how transformers calls it."""

    def __init__(self, name, architecture, model, config, *, layers=2, heads=4, kv_heads=2, head_dim=16, tied=False, metadata=None, window=0,
                 sliding=None, context=256, load_context=0, vectors=None, traits=(), dtype="float32", folder_only=False):
        self.dtype, self.folder_only = dtype, folder_only
        self.name, self.architecture, self.model_class, self.traits = name, architecture, model, set(traits)
        self.layers, self.heads, self.kv_heads, self.head_dim, self.tied = layers, heads, kv_heads, head_dim, tied
        self.window, self.sliding, self.load_context = window, sliding or [window > 0] * layers, load_context
        self.metadata = {
            "block_count": layers, "embedding_length": WIDTH, "feed_forward_length": INNER, "context_length": context,
            "attention.head_count": heads, "attention.head_count_kv": kv_heads, "attention.key_length": head_dim,
            "attention.value_length": head_dim, "attention.layer_norm_rms_epsilon": 1e-5, "rope.freq_base": 10000.0,
        } | ({"attention.sliding_window": window} if window else {}) | (metadata or {})
        self.config = dict(
            vocab_size=VOCABULARY, hidden_size=WIDTH, intermediate_size=INNER, num_hidden_layers=layers, num_attention_heads=heads,
            num_key_value_heads=kv_heads, head_dim=head_dim, max_position_embeddings=context, rms_norm_eps=1e-5, rope_theta=10000.0,
            tie_word_embeddings=tied, attn_implementation="eager", pad_token_id=None, bos_token_id=None, eos_token_id=None,
        ) | config
        self.vectors = vectors or {}

    def tensors(self) -> list[tuple[str, list[int], float, float]]:
        """(name, shape as in numpy, scale, offset) of every hashed tensor."""
        q, k = self.heads * self.head_dim, self.kv_heads * self.head_dim
        result = []

        def matrix(name, rows, columns):
            result.append((name, [rows, columns], 2.0 ** round(math.log2(2 / math.sqrt(columns))), 0.0))

        def norm(name, size):
            result.append((name, [size], 0.25, 1.0))

        result.append(("token_embd.weight", [VOCABULARY, WIDTH], 0.25 if "gemma" in self.architecture else 1.0, 0.0))
        norm("output_norm.weight", WIDTH)
        if not self.tied:
            matrix("output.weight", VOCABULARY, WIDTH)
        before, after = "after" not in self.traits, bool({"after", "around"} & self.traits)
        for layer in range(self.layers):
            p = f"blk.{layer}."
            if before:
                norm(p + "attn_norm.weight", WIDTH)
            if "fused" in self.traits:
                matrix(p + "attn_qkv.weight", q + 2 * k, WIDTH)
            else:
                for letter, rows in (("q", q), ("k", k), ("v", k)):
                    matrix(p + f"attn_{letter}.weight", rows, WIDTH)
                    if "bias" in self.traits:
                        result.append((p + f"attn_{letter}.bias", [rows], 0.5, 0.0))
            if "head_norm" in self.traits:
                norm(p + "attn_q_norm.weight", self.head_dim)
                norm(p + "attn_k_norm.weight", self.head_dim)
            if "whole_norm" in self.traits:
                norm(p + "attn_q_norm.weight", q)
                norm(p + "attn_k_norm.weight", k)
            matrix(p + "attn_output.weight", WIDTH, q)
            if after:
                norm(p + "post_attention_norm.weight", WIDTH)
            if before:
                norm(p + "ffn_norm.weight", WIDTH)
            matrix(p + "ffn_up.weight", 2 * INNER if "fused" in self.traits else INNER, WIDTH)
            if "fused" not in self.traits:
                matrix(p + "ffn_gate.weight", INNER, WIDTH)
            matrix(p + "ffn_down.weight", WIDTH, INNER)
            if after:
                norm(p + "post_ffw_norm.weight", WIDTH)
        return result

    def weights(self) -> dict[str, np.ndarray]:
        made = {n: hashed(n, math.prod(shape), scale, offset).reshape(shape) for n, shape, scale, offset in self.tensors()}
        return made | {n: np.array(v, dtype=np.float32) for n, v in self.vectors.items()}

    def build(self):
        """transformers' model with these weights; every parameter must have got one."""
        config = self.model_class.config_class(**self.config)
        model = self.model_class(config).eval().float()
        state = {there: torch.from_numpy(value) for here, value in self.weights().items() for there, value in self.translate(here, value)}
        if self.tied:
            state["lm_head.weight"] = state["model.embed_tokens.weight"]
        model.load_state_dict(state, strict=True)
        return model

    def translate(self, name: str, value: np.ndarray):
        if name in self.vectors:
            return
        if "adjacent" in self.traits and (".attn_q." in name or ".attn_k." in name):
            heads = self.heads if ".attn_q." in name else self.kv_heads
            value = value.reshape(heads, self.head_dim // 2, 2, -1).transpose(0, 2, 1, 3).reshape(value.shape)
        if "minus_one" in self.traits and "norm" in name:
            value = value - np.float32(1)
        value = np.ascontiguousarray(value)
        if self.dtype != "float32":
            value = torch.from_numpy(value).to(getattr(torch, self.dtype)).float().numpy()
        if not name.startswith("blk."):
            yield {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight", "output.weight": "lm_head.weight"}[name], value
            return
        _, layer, part, kind = name.split(".")
        sandwich = "around" in self.traits
        there = {
            "attn_norm": "input_layernorm", "attn_qkv": "self_attn.qkv_proj", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
            "attn_v": "self_attn.v_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm", "attn_output": "self_attn.o_proj",
            "post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm" if sandwich else "post_attention_layernorm",
            "ffn_up": "mlp.gate_up_proj" if "fused" in self.traits else "mlp.up_proj", "ffn_gate": "mlp.gate_proj", "ffn_down": "mlp.down_proj",
            "post_ffw_norm": "post_feedforward_layernorm",
        }[part]
        yield f"model.layers.{layer}.{there}.{kind}", value

    def masks(self):
        """Additive masks of block mode: without and with the window."""
        total = sum(LENGTHS)
        sees = torch.zeros(total, total, dtype=torch.bool)
        start = 0
        for index, length in enumerate(LENGTHS):
            sees[start : start + length, (0 if index + 1 == len(LENGTHS) else start) : start + length] = True
            start += length
        sees = sees.tril()
        near = sees & (torch.arange(total)[:, None] - torch.arange(total)[None] < self.window) if self.window else sees
        return [torch.where(s, 0.0, torch.finfo(torch.float32).min)[None, None] for s in (sees, near)]

    @torch.no_grad()
    def logits(self, model) -> tuple[np.ndarray, np.ndarray]:
        ids = torch.tensor([IDS])
        full, near = self.masks()
        if any(self.sliding) != all(self.sliding):
            mask = {"full_attention": full, "sliding_attention": near}
        else:
            mask = near
        positions = torch.arange(len(IDS))[None]
        block = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits[0]
        return model(input_ids=ids, use_cache=False).logits[0].numpy(), block.numpy()

    def write_gguf(self, folder: pathlib.Path) -> None:
        writer = gguf.GGUFWriter(str(folder / f"{self.name}.gguf"), self.architecture)
        for key, value in self.metadata.items():
            add = {str: writer.add_string, float: writer.add_float32, list: writer.add_array}.get(type(value), writer.add_uint32)
            add(f"{self.architecture}.{key}", value)
        for name, value in self.weights().items():
            writer.add_tensor(name, value)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    def folder(self, model) -> dict:
        """What save_pretrained writes: the configuration, and names by llama.cpp's."""
        names = {here: there for here, value in self.weights().items() for there, _ in self.translate(here, value)}
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            config = json.loads((pathlib.Path(folder) / "config.json").read_text())
            with safetensors.safe_open(pathlib.Path(folder) / "model.safetensors", "np") as file:
                assert sorted(file.keys()) == sorted(names.values()), (self.name, sorted(file.keys()), sorted(names.values()))
        return {"config": config, "names": names, "dtype": self.dtype, "adjacent": "adjacent" in self.traits, "minus_one": "minus_one" in self.traits}

    def record(self) -> dict:
        model = self.build()
        full, block = self.logits(model)
        rounded = lambda row: [float(f"{x:.7g}") for x in row]  # noqa: E731
        return {
            "name": self.name, "architecture": self.architecture, "load_context": self.load_context, "metadata": self.metadata,
            "tensors": [[n, shape[::-1], scale, offset] for n, shape, scale, offset in self.tensors()], "vectors": self.vectors,
            "folder_only": self.folder_only, "huggingface": self.folder(model), "layers": self.layers, "full": [rounded(full[r]) for r in FULL_ROWS], "block": [rounded(block[r]) for r in BLOCK_ROWS],
        }


def llama3_divisors(base, dim, factor, low, high, original) -> list[float]:
    """As llama.cpp's converter stores them: by what each frequency is divided."""
    result = []
    for i in range(dim // 2):
        wave = 2 * math.pi * base ** (2 * i / dim)
        if wave < original / high:
            result.append(1.0)
        elif wave > original / low:
            result.append(float(factor))
        else:
            smooth = (original / wave - low) / (high - low)
            result.append(1 / ((1 - smooth) / factor + smooth))
    return result


def cases() -> list[Case]:
    t = transformers
    adjacent = ("adjacent",)
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64}
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    short, long = [1.0, 1.1, 1.25, 1.5], [1.5, 2.0, 3.0, 6.0]
    gemma = {"hidden_activation": "gelu_pytorch_tanh"}
    phi = {"partial_rotary_factor": 0.5, "sliding_window": None}
    yarn_keys = {"rope.scaling.type": "yarn", "rope.scaling.factor": 4.0, "rope.scaling.original_context_length": 64}
    return [
        Case("llama", "llama", t.LlamaForCausalLM, {}, traits=adjacent),
        Case("llama-llama3", "llama", t.LlamaForCausalLM, {"rope_scaling": llama3}, traits=adjacent, tied=True,
             vectors={"rope_freqs.weight": llama3_divisors(10000.0, 16, 8.0, 1.0, 4.0, 64)}),
        Case("llama-linear", "llama", t.LlamaForCausalLM, {"rope_scaling": {"rope_type": "linear", "factor": 4.0}}, traits=adjacent, head_dim=128,
             metadata={"rope.scaling.type": "linear", "rope.scaling.factor": 4.0}),
        Case("mistral", "mistral", t.MistralForCausalLM, {"sliding_window": 12}, traits=adjacent, head_dim=80, window=12),
        Case("qwen2", "qwen2", t.Qwen2ForCausalLM, {}, traits=("bias",), tied=True),
        Case("qwen2-yarn", "qwen2", t.Qwen2ForCausalLM, {"rope_scaling": yarn}, traits=("bias",), head_dim=96, metadata=yarn_keys),
        Case("qwen3", "qwen3", t.Qwen3ForCausalLM, {}, traits=("head_norm",), head_dim=128),
        Case("gemma2", "gemma2", t.Gemma2ForCausalLM,
             gemma | {"sliding_window": 12, "query_pre_attn_scalar": 24, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 4.0},
             layers=3, window=12, sliding=[True, False, True], head_dim=32, tied=True, traits=("around", "minus_one"),
             metadata={"attention.scale": 24**-0.5, "attn_logit_softcapping": 3.0, "final_logit_softcapping": 4.0}),
        Case("gemma3", "gemma3", t.Gemma3ForCausalLM,
             gemma | {"sliding_window": 9, "query_pre_attn_scalar": 256, "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0,
                      "layer_types": (["sliding_attention"] * 5 + ["full_attention"]) + ["sliding_attention"]},
             layers=7, kv_heads=1, head_dim=256, window=9, sliding=[True] * 5 + [False, True], tied=True, traits=("around", "minus_one", "head_norm"),
             metadata={"rope.freq_base": 1000000.0}),
        Case("phi3", "phi3", t.Phi3ForCausalLM, phi | {"sliding_window": 20}, head_dim=16, window=20, metadata={"rope.dimension_count": 8}, traits=("fused",)),
        Case("phi3-longrope-short", "phi3", t.Phi3ForCausalLM,
             phi | {"original_max_position_embeddings": 64, "rope_scaling": {"type": "longrope", "short_factor": short, "long_factor": long}},
             metadata={"rope.dimension_count": 8, "rope.scaling.original_context_length": 64}, traits=("fused",),
             vectors={"rope_factors_short.weight": short, "rope_factors_long.weight": long}),
        Case("phi3-longrope-long", "phi3", t.Phi3ForCausalLM,
             phi | {"original_max_position_embeddings": 32, "rope_scaling": {"type": "longrope", "short_factor": short, "long_factor": long}},
             metadata={"rope.dimension_count": 8, "rope.scaling.original_context_length": 32}, traits=("fused",), load_context=256,
             vectors={"rope_factors_short.weight": short, "rope_factors_long.weight": long}),
        Case("smollm3", "smollm3", t.SmolLM3ForCausalLM, {}, layers=4, tied=True, traits=adjacent),
        Case("olmo2", "olmo2", t.Olmo2ForCausalLM, {}, kv_heads=4, traits=("after", "whole_norm")),
        Case("mistral-full", "llama", t.MistralForCausalLM, {"sliding_window": None}, traits=adjacent, folder_only=True),
        Case("llama-bf16", "llama", t.LlamaForCausalLM, {"rope_scaling": llama3}, traits=adjacent, dtype="bfloat16", folder_only=True),
        Case("qwen2-window", "qwen2", t.Qwen2ForCausalLM, {"use_sliding_window": True, "sliding_window": 12, "max_window_layers": 1}, traits=("bias",), window=12,
             sliding=[False, True], folder_only=True),
        Case("qwen3-yarn", "qwen3", t.Qwen3ForCausalLM, {"rope_scaling": yarn | {"attention_factor": 1.25, "beta_fast": 16.0, "beta_slow": 2.0}}, traits=("head_norm",),
             head_dim=64, folder_only=True),
        Case("gemma3-linear", "gemma3", t.Gemma3ForCausalLM,
             gemma | {"sliding_window": 9, "query_pre_attn_scalar": 32, "rope_theta": 1000000.0, "rope_local_base_freq": 10000.0,
                      "rope_scaling": {"rope_type": "linear", "factor": 8.0}, "layer_types": ["sliding_attention", "full_attention"]},
             kv_heads=1, head_dim=32, window=9, sliding=[True, False], tied=True, traits=("around", "minus_one", "head_norm"), dtype="float16", folder_only=True),
        Case("smollm3-layers", "smollm3", t.SmolLM3ForCausalLM, {"no_rope_layers": [1, 0, 1]}, layers=3, traits=adjacent, folder_only=True),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--gguf", type=pathlib.Path, help="also write the models here")
    args = parser.parse_args()
    made = cases()
    if args.gguf:
        args.gguf.mkdir(parents=True, exist_ok=True)
        for case in made:
            if not case.folder_only:
                case.write_gguf(args.gguf)
    result = {
        "oracle": f"transformers {transformers.__version__}, torch {torch.__version__}, float32, eager attention",
        "ids": IDS, "lengths": LENGTHS, "full_rows": FULL_ROWS, "block_rows": BLOCK_ROWS, "cases": [case.record() for case in made],
    }
    args.out.write_text(json.dumps(result, separators=(",", ":")).replace('{"name"', '\n{"name"') + "\n", encoding="utf-8")
    print(args.out, args.out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
