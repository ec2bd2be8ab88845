#!/usr/bin/env python3
"""Makes tests/golden/<model>.golden and .json: what the library's logits are compared with. See README.md beside this file.

    python make_model_golden.py --model SmolLM2-135M-Instruct.Q4_1.gguf --out ../../tests/golden/smollm2-135m-q4_1
"""
from __future__ import annotations

import argparse
import hashlib
import importlib.metadata
import json
import pathlib
import platform
import sys
import time

import llama_cpp
import numpy as np
import torch

import golden_format
import oracle
from llama_reference import LlamaReference

HERE = pathlib.Path(__file__).parent
FULL_SAMPLES, BLOCK_FINAL_SAMPLES, BLOCK_LOCAL_SAMPLES = 20, 16, 6
ENGLISH_500 = "06_english_500"
# Prompts that are repeated with other plans: (prompt, max_blocks, global_blocks).
VARIANTS = [
    ("02_five_passages", -1, 2),
    ("02_five_passages", 1, 1),
    ("03_ten_passages", 4, 1),
    ("03_ten_passages", -1, 3),
]


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """[T, V] in double precision."""
    values = logits.astype(np.float64)
    values -= values.max(axis=-1, keepdims=True)
    return values - np.log(np.exp(values).sum(axis=-1, keepdims=True))


def kl(reference: np.ndarray, other: np.ndarray) -> np.ndarray:
    """KL(reference || other) in nats of each row of logits; rows taken a few at a time, since [T, V] in double is large."""
    parts = []
    for first in range(0, len(reference), 128):
        p, q = log_softmax(reference[first : first + 128]), log_softmax(other[first : first + 128])
        parts.append((np.exp(p) * (p - q)).sum(axis=-1))
    return np.concatenate(parts)


def evenly(begin: int, end: int, count: int) -> list[int]:
    """At most `count` positions of [begin, end), evenly spread, the last one among them."""
    if end <= begin:
        return []
    return sorted({int(round(x)) for x in np.linspace(begin, end - 1, min(count, end - begin))})


def local_blocks(blocks: int, max_blocks: int, global_blocks: int) -> int:
    """How many leading blocks attend to themselves only."""
    limit = blocks - max(1, global_blocks)
    return max(0, limit if max_blocks < 0 else min(limit, max_blocks))


def read_prompts(tokenizer) -> list[tuple[str, list[list[int]], int, int]]:
    """(name, ids of each block, max_blocks, global_blocks) of every case, full-mode prompts first."""

    def encode(text: str) -> list[int]:
        return tokenizer.encode(text).ids

    cases = []
    for path in sorted((HERE / "prompts" / "full").glob("*.txt")):
        # One line feed at the end belongs to the file, not to the prompt.
        text = path.read_bytes().decode().removesuffix("\n")
        cases.append((f"full/{path.stem}", [encode(text)], -1, 1))
    block = {}
    for path in sorted((HERE / "prompts" / "block").glob("*.json")):
        block[path.stem] = [encode(text) for text in json.loads(path.read_text(encoding="utf-8"))["blocks"]]
        cases.append((f"block/{path.stem}", block[path.stem], -1, 1))
    for name, max_blocks, global_blocks in VARIANTS:
        suffix = f"max{max_blocks}" if max_blocks >= 0 else f"global{global_blocks}"
        cases.append((f"block/{name}+{suffix}", block[name], max_blocks, global_blocks))
    return cases


def summary(divergence: np.ndarray, equal: np.ndarray | None = None) -> dict:
    """Figures of one prompt or of several joined."""
    result = {"positions": len(divergence), "mean_kl": float(divergence.mean()), "worst_kl": float(divergence.max())}
    if equal is not None:
        result["top1_equal"] = float(equal.mean())
    return result


def check_tokenizer(llama: LlamaReference, tokenizer) -> None:
    """Two implementations of the same tokenizer must agree before anything is built on their ids."""
    texts = [p.read_text(encoding="utf-8") for p in sorted((HERE / "prompts" / "full").glob("*.txt"))]
    for path in sorted((HERE / "prompts" / "block").glob("*.json")):
        texts += json.loads(path.read_text(encoding="utf-8"))["blocks"]
    for text in texts:
        if llama.tokenize(text) != tokenizer.encode(text).ids:
            raise SystemExit(f"[golden] llama.cpp and tokenizers disagree about: {text[:60]!r}")


def run_case(model, engines: dict[str, LlamaReference], name, blocks, max_blocks, global_blocks):
    """The golden data of one prompt, and its figures of each llama.cpp variant over all positions."""
    ids = [i for block in blocks for i in block]
    lengths = [len(block) for block in blocks]
    local = 0 if len(blocks) == 1 else local_blocks(len(blocks), max_blocks, global_blocks)
    border = sum(lengths[:local])
    plan = oracle.Plan(lengths, global_blocks=len(lengths) - local)
    hidden = oracle.final_hidden(model, ids, plan)
    logits = oracle.logits_of(model, hidden).numpy()
    if local == 0:
        positions = evenly(0, len(ids), FULL_SAMPLES)
    else:
        positions = evenly(0, border, BLOCK_LOCAL_SAMPLES) + evenly(border, len(ids), BLOCK_FINAL_SAMPLES)
    top = np.sort(logits, axis=-1)[:, -2:] if len(ids) < 64 else np.partition(logits, -2, axis=-1)[:, -2:]
    argmax = logits.argmax(axis=-1)

    rounded = oracle.logits_of(model, hidden[positions].half().float()).numpy()
    figures = {
        "tokens": len(ids),
        "lengths": lengths,
        "local_blocks": local,
        "samples": len(positions),
        "float16_storage": summary(kl(logits[positions], rounded)),
    }
    sampled, pooled = None, {}
    for label, engine in engines.items():
        theirs = engine.logits(ids, lengths, local)
        divergence, equal = kl(logits, theirs), theirs.argmax(axis=-1) == argmax
        figures[label] = {
            "all": summary(divergence, equal),
            "sampled": summary(divergence[positions], equal[positions]),
        }
        pooled[label] = (divergence, equal, positions)
        sampled = divergence[positions] if sampled is None else sampled
    case = golden_format.Case(
        name, lengths, local, max_blocks, global_blocks, ids, argmax, top[:, 1] - top[:, 0], np.array(positions),
        sampled, hidden[positions].numpy(),
    )
    return case, figures, pooled


def pool(results: list[dict], label: str) -> dict:
    """Figures of one llama.cpp variant over several prompts, every position counted once."""
    divergence = np.concatenate([r[label][0] for r in results])
    equal = np.concatenate([r[label][1] for r in results])
    sampled = np.concatenate([r[label][0][r[label][2]] for r in results])
    sampled_equal = np.concatenate([r[label][1][r[label][2]] for r in results])
    return {
        "all": summary(divergence, equal),
        "sampled": summary(sampled, sampled_equal),
        "mean_of_prompt_means": float(np.mean([r[label][0].mean() for r in results])),
    }


def storage_cost(figures: dict, mode: str) -> dict:
    """What storing hidden states in float16 costs, over all sampled positions of a mode."""
    chosen = [f["float16_storage"] for name, f in figures.items() if name.startswith(mode + "/")]
    count = sum(f["positions"] for f in chosen)
    mean = sum(f["positions"] * f["mean_kl"] for f in chosen) / count
    return {"positions": count, "mean_kl": mean, "worst_kl": max(f["worst_kl"] for f in chosen)}


def float64_check(model, cases: list[golden_format.Case]) -> dict:
    """How far the float32 oracle itself is from the same network in float64, rotary angles included."""
    wanted = [c for c in cases if c.name in ("full/06_english_500", "full/07_english_long", "block/03_ten_passages")]
    doubles = oracle.to_float64(model)
    result = {}
    for case in wanted:
        plan = oracle.Plan(case.lengths, global_blocks=len(case.lengths) - case.local)
        exact = oracle.logits_of(doubles, oracle.final_hidden(doubles, case.ids, plan)).numpy()
        single = oracle.logits_of(model, oracle.final_hidden(model, case.ids, plan)).numpy()
        result[case.name] = summary(kl(exact, single), exact.argmax(axis=-1) == single.argmax(axis=-1))
    return result


def versions() -> dict:
    names = ["torch", "transformers", "tokenizers", "gguf", "numpy", "llama_cpp_python"]
    result = {name: importlib.metadata.version(name) for name in names}
    result["python"] = platform.python_version()
    result["llama.cpp features"] = llama_cpp.llama_print_system_info().decode().strip(" |")
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="path without extension; .golden and .json are written")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--float64", action="store_true", help="also compare the oracle with itself in float64 (slow, 4 GB)")
    parser.add_argument("--only", default="", help="only cases whose name contains this (for trying things out)")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    file = oracle.Checkpoint(args.model)
    model, tokenizer = oracle.build_model(file), oracle.build_tokenizer(file)
    engines = {
        "llama.cpp": LlamaReference(args.model, args.threads),
        "llama.cpp, flash attention": LlamaReference(args.model, args.threads, flash_attention=True),
    }
    check_tokenizer(engines["llama.cpp"], tokenizer)

    cases, figures, results = [], {}, {}
    for name, blocks, max_blocks, global_blocks in read_prompts(tokenizer):
        if args.only not in name:
            continue
        begin = time.monotonic()
        case, figures[name], results[name] = run_case(model, engines, name, blocks, max_blocks, global_blocks)
        cases.append(case)
        theirs = figures[name]["llama.cpp"]["all"]
        print(
            f"{name:32} {len(case.ids):5} tokens  llama.cpp KL {theirs['mean_kl']:.2e} (worst {theirs['worst_kl']:.2e}) "
            f"top-1 {100 * theirs['top1_equal']:.1f} %  f16 {figures[name]['float16_storage']['mean_kl']:.1e} "
            f"{time.monotonic() - begin:.0f} s",
            file=sys.stderr,
        )

    groups = {}
    for mode in ("full", "block"):
        chosen = [r for name, r in results.items() if name.startswith(mode + "/")]
        if chosen:
            groups[mode] = {label: pool(chosen, label) for label in engines}
            groups[mode]["float16_storage"] = storage_cost(figures, mode)
    data = args.model.read_bytes()
    metadata = {
        "model": {"file": args.model.name, "bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()},
        "oracle": "transformers LlamaForCausalLM, eager attention, float32, weights dequantised by gguf-py",
        "kl": "KL(oracle || other) in nats, computed in float64; `all` = every position, `sampled` = those whose hidden state is stored",
        "llama.cpp": f"float16 KV, batch 512, {args.threads} threads",
        "versions": versions(),
        "total": groups,
        "english_500": figures.get(f"full/{ENGLISH_500}", {}).get("llama.cpp"),
        "prompts": figures,
    }
    if args.float64:
        metadata["float32_oracle_against_float64"] = float64_check(model, cases)
    packed = golden_format.pack(
        model.config.hidden_size, model.config.vocab_size, len(data), hashlib.sha256(data).digest(), cases
    )
    args.out.with_suffix(".golden").write_bytes(packed)
    args.out.with_suffix(".json").write_text(json.dumps(metadata, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(json.dumps(groups, indent=1), file=sys.stderr)
    print(f"{args.out}.golden: {len(packed)} bytes, {len(cases)} cases", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
