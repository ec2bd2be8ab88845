"""best_subspan_em of a model, with or without an adapter, in full and block mode: gold passage + distractors, greedy.

    python evaluate.py MODEL.gguf QUESTIONS.jsonl.gz [--adapter ADAPTER.gguf] [--modes full block local] [--limit N]

Only held-out questions (see data.py). Their distractors come from the whole file, the gold passage stands at a seeded random place, the same for all
modes and models. Mode `local` is block attention without positional re-encoding.
"""
from __future__ import annotations

import argparse
import json
import math
import pathlib
import random
import sys

import torch
import transformers

import data
import export_gguf
import prompts as p

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "golden"))
import oracle  # noqa: E402


def load_base(path: pathlib.Path, device: str):
    """The checkpoint's dequantised weights in transformers, float32, SDPA; and its tokenizer."""
    file = oracle.Checkpoint(path)
    model = oracle.build_model(file)
    model.set_attn_implementation("sdpa")
    head = model.config.hidden_size // model.config.num_attention_heads
    expected = file.value(file.value("general.architecture") + ".rope.freq_base") ** (-2 / head)
    if abs(model.model.rotary_emb.inv_freq[1].item() - expected) > 1e-6:
        raise SystemExit(f"[evaluate] {path}: transformers {transformers.__version__} didn't take the file's RoPE base")
    model.to(device)
    if model.config.tie_word_embeddings:
        model.lm_head.weight = model.model.embed_tokens.weight
    return model, oracle.build_tokenizer(file)


def questions_with_passages(questions: list[data.Question], pool: data.Distractors, passages: int, seed: int) -> list[list[data.Passage]]:
    """For each question its passages: the gold one at a random place among the nearest others."""
    rng = random.Random(seed)
    result = []
    for q in questions:
        chosen = pool.nearest(q.question, q.answers, q.gold, passages - 1)
        chosen.insert(rng.randint(0, len(chosen)), q.gold)
        result.append(chosen)
    return result


@torch.no_grad()
def generate(model, items: list[p.Prompt], mode: str, end: int, max_tokens: int = 32, batch_size: int = 32) -> list[list[int]]:
    """Greedy answers' ids without the end token, in the order of `items`."""
    device = next(model.parameters()).device
    answers: list[list[int]] = [[] for _ in items]
    order = sorted(range(len(items)), key=lambda i: len(items[i]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = p.collate([items[i] for i in rows], device)
        cache = transformers.DynamicCache()
        lengths = batch.lengths
        hidden = p.hidden_states(model, batch, mode, cache)[torch.arange(len(rows), device=device), lengths - 1]
        seen, going = batch.block >= 0, torch.ones(len(rows), dtype=torch.bool, device=device)
        new = []
        for step in range(max_tokens):
            token = model.lm_head(hidden).argmax(-1)
            going &= token != end
            new.append(torch.where(going, token, -1))
            if step + 1 == max_tokens or not going.any():
                break
            seen = torch.cat([seen, torch.ones_like(seen[:, :1])], 1)
            out = model.model(
                input_ids=token[:, None],
                attention_mask=seen[:, None, None, :],
                position_ids=(lengths + step)[:, None],
                past_key_values=cache,
                use_cache=True,
            )
            hidden = out.last_hidden_state[:, -1]
        for i, ids in zip(rows, torch.stack(new, 1).tolist()):
            answers[i] = [t for t in ids if t >= 0]
    return answers


def with_interval(values: list[float]) -> dict[str, float]:
    """Mean and half-width of the 95 % interval, in points of 100."""
    n = len(values)
    mean = sum(values) / n
    variance = sum((v - mean) ** 2 for v in values) / (n - 1)
    return {"value": round(100 * mean, 2), "interval": round(196 * math.sqrt(variance / n), 2)}


def measure(model, builder: p.PromptBuilder, questions, passages, modes=("full", "block"), batch_size: int = 32, max_tokens: int = 32) -> dict:
    """best_subspan_em for each mode, and paired differences to full mode. `hits` has a 0 or 1 for each question."""
    items = [builder.rag(p.SYSTEM, chosen, q.question) for q, chosen in zip(questions, passages)]
    result: dict = {"n": len(questions), "hits": {}, "answers": {}}
    for mode in modes:
        answers = [builder.decode(ids) for ids in generate(model, items, mode, builder.end, max_tokens, batch_size)]
        hits = [float(data.best_subspan_em(a, q.answers)) for a, q in zip(answers, questions)]
        result[mode] = with_interval(hits)
        result[mode]["mean_words"] = round(sum(len(a.split()) for a in answers) / len(answers), 1)
        result["hits"][mode], result["answers"][mode] = hits, answers
    for mode in modes:
        if mode != "full" and "full" in modes:
            result[f"{mode} - full"] = with_interval([a - b for a, b in zip(result["hits"][mode], result["hits"]["full"])])
    return result


def figures(measured: dict) -> dict:
    """What is worth keeping in a results file."""
    return {k: v for k, v in measured.items() if k not in ("hits", "answers")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("questions", type=pathlib.Path)
    parser.add_argument("--adapter", type=pathlib.Path)
    parser.add_argument("--modes", nargs="+", default=["full", "block"], choices=["full", "block", "local"])
    parser.add_argument("--passages", type=int, default=10)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--show", type=int, default=0, help="print so many answers")
    args = parser.parse_args()
    model, tokenizer = load_base(args.model, args.device)
    if args.adapter:
        export_gguf.attach(model, args.adapter)
    everything = data.load(args.questions)
    held_out = data.split(everything)[2][: args.limit]
    pool = data.Distractors([q.gold for q in everything])
    passages = questions_with_passages(held_out, pool, args.passages, args.seed)
    measured = measure(model, p.PromptBuilder(tokenizer), held_out, passages, args.modes, args.batch_size)
    for i in range(min(args.show, len(held_out))):
        print(held_out[i].question, held_out[i].answers, {m: measured["answers"][m][i] for m in args.modes}, sep=" | ")
    print(json.dumps(figures(measured), indent=1))


if __name__ == "__main__":
    main()
