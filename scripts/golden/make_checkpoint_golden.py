#!/usr/bin/env python3
"""Makes tests/golden/<model>.golden and .json for the checkpoints of other families: Qwen2.5-Coder-0.5B and Gemma 3 270M. See README.md beside this file.

    python make_checkpoint_golden.py --model qwen2.5-coder-0.5b.gguf --out ../../tests/golden/qwen2.5-coder-0.5b
    python make_checkpoint_golden.py --model gemma-3-270m.gguf --out ../../tests/golden/gemma-3-270m

The oracle is transformers' own class with the weights that gguf-py dequantises, float32, eager attention. Token ids are llama.cpp's.
"""
from __future__ import annotations

import argparse
import hashlib
import json
import pathlib
import sys

import numpy as np
import torch
import transformers

import golden_format
import make_model_golden as base
import oracle
from llama_reference import LlamaReference
from make_family_golden import Case

base.FULL_SAMPLES, base.BLOCK_FINAL_SAMPLES, base.BLOCK_LOCAL_SAMPLES = 14, 10, 4
# (prompt, which of its blocks); a full-mode prompt has one.
PROMPTS = {
    "qwen2": [("full/04_paragraph", None), ("block/01_two_notes", None), ("block/04_functions", None)],
    "gemma3": [("full/04_paragraph", None), ("block/01_two_notes", None), ("block/03_ten_passages", [0, 1, 2, 3, 4, 5, 6, -1])],
}


class Checkpoint(Case):
    """A GGUF file as the family's class in transformers."""

    def __init__(self, file: oracle.Checkpoint):
        self.file = file
        architecture = file.value("general.architecture")
        number = lambda key, default=None: file.value(f"{architecture}.{key}", default)  # noqa: E731
        heads, width, layers = number("attention.head_count"), number("embedding_length"), number("block_count")
        head_dim = number("attention.key_length", width // heads)
        config = {
            "vocab_size": file.tensors["token_embd.weight"].shape[1].item(), "hidden_size": width, "intermediate_size": number("feed_forward_length"),
            "rope_theta": number("rope.freq_base"), "rms_norm_eps": number("attention.layer_norm_rms_epsilon"),
        }
        if architecture == "qwen2":
            model, traits = transformers.Qwen2ForCausalLM, ("bias",)
        elif architecture == "gemma3":
            model, traits = transformers.Gemma3ForCausalLM, ("around", "minus_one", "head_norm")
            config |= {
                "sliding_window": number("attention.sliding_window"), "query_pre_attn_scalar": head_dim, "rope_local_base_freq": 10000.0,
                "layer_types": ["full_attention" if (i + 1) % 6 == 0 else "sliding_attention" for i in range(layers)],
            }
        else:
            raise SystemExit(f"[oracle] {file.path}: architecture '{architecture}'; known: {', '.join(PROMPTS)}")
        super().__init__(
            architecture, architecture, model, config, layers=layers, heads=heads, kv_heads=number("attention.head_count_kv"), head_dim=head_dim,
            tied="output.weight" not in file.tensors, context=number("context_length"), traits=traits,
        )

    def weights(self) -> dict[str, np.ndarray]:
        return {name: self.file.tensor(name) for name in self.file.tensors}


def read_blocks(name: str, chosen, llama: LlamaReference, bos: list[int]) -> list[list[int]]:
    path = base.HERE / "prompts" / name
    if name.startswith("full/"):
        texts = [path.with_suffix(".txt").read_text(encoding="utf-8").removesuffix("\n")]
    else:
        texts = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["blocks"]
        texts = texts if chosen is None else [texts[i] for i in chosen]
    blocks = [llama.tokenize(text) for text in texts]
    blocks[0] = bos + blocks[0]
    return blocks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="path without extension; .golden and .json are written")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    file = oracle.Checkpoint(args.model)
    checkpoint = Checkpoint(file)
    model = checkpoint.build()
    llama = LlamaReference(args.model, args.threads)
    bos = [file.value("tokenizer.ggml.bos_token_id")] if file.value("tokenizer.ggml.add_bos_token") else []
    cases, figures, results = [], {}, []
    for name, chosen in PROMPTS[checkpoint.architecture]:
        blocks = read_blocks(name, chosen, llama, bos)
        case, figures[name], pooled = base.run_case(model, {"llama.cpp": llama}, name, blocks, -1, 1)
        cases.append(case)
        results.append(pooled)
        print(name, len(case.ids), "tokens", figures[name]["llama.cpp"], "f16", figures[name]["float16_storage"], file=sys.stderr)
    data = args.model.read_bytes()
    metadata = {
        "model": {"file": args.model.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()},
        "oracle": f"transformers {type(model).__name__}, eager attention, float32, weights dequantised by gguf-py",
        "kl": "KL(oracle || llama.cpp) in nats; `all` = every position, `sampled` = those whose hidden state is stored",
        "versions": base.versions(), "total": base.pool(results, "llama.cpp"), "prompts": figures,
    }
    packed = golden_format.pack(model.config.hidden_size, model.config.vocab_size, len(data), hashlib.sha256(data).digest(), cases)
    pathlib.Path(f"{args.out}.golden").write_bytes(packed)
    pathlib.Path(f"{args.out}.json").write_text(json.dumps(metadata, indent=1) + "\n", encoding="utf-8")
    print(args.out, len(packed), "bytes", metadata["total"], file=sys.stderr)


if __name__ == "__main__":
    main()
