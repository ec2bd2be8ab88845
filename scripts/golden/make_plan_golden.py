#!/usr/bin/env python3
"""Makes tests/golden/plans-smollm2.golden: hidden states under every attention plan, by transformers. See README.md beside this file.

    python make_plan_golden.py --model SmolLM2-135M-Instruct.Q4_1.gguf --out ../../tests/golden/plans-smollm2.golden

Nothing here shares code with the library. Plans that are a mask and positions (fractional ones for Superposition) are one pass of transformers with them. Plans that
mix states of several passes (prefixed, EPIC, CacheBlend) are passes of transformers over a cache put together here: columns taken from the passes before, keys
turned by transformers' own rotary functions. APE is an attention function registered with transformers.

The file, little-endian, nothing padded:
    magic     8 bytes "BAPLAN01"
    width     u32     D
    prompts   u32     each: blocks u32, then each block: n u32, ids u16 [n]
    cases     u32     each: n u32, the plan as text (n bytes), prompt u32, next u32 (a token that follows the prompt, or 0xFFFFFFFF: none),
                      hidden f16 [1 or 2, D]: the state after the last norm of the prompt's last token, and of `next`
"""
from __future__ import annotations

import argparse
import json
import pathlib
import struct
import sys

import numpy as np
import torch
import transformers
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

import oracle

HERE = pathlib.Path(__file__).parent
MOST_BLOCKS, MOST_TOKENS = 7, 40
TASK, KEEP, EPIC_K, RATIO, LINKS, LINK_TOKEN, BOS, T, S = 3, 2, 8, 0.15, 2, 5, 0, 0.9, 0.9
NONE = 0xFFFFFFFF


def prompts(tokenizer) -> list[list[list[int]]]:
    """Ten prompts as blocks of ids, cut short: those of prompts/block, and two of their blocks in other orders."""
    result = []
    for path in sorted((HERE / "prompts/block").glob("*.json")):
        texts = json.loads(path.read_text(encoding="utf-8"))
        texts = texts["blocks"] if isinstance(texts, dict) else texts
        blocks = [tokenizer.encode(t, add_special_tokens=False).ids for t in texts]
        blocks = [*blocks[: MOST_BLOCKS - 1], blocks[-1]] if len(blocks) > MOST_BLOCKS else blocks
        result.append([b[: MOST_TOKENS - 7 * (i % 4)] for i, b in enumerate(blocks)])
    result.append([result[0][0], *reversed(result[1][1:-1]), result[0][-1]])
    result.append([result[2][0], *result[3][1:3], *result[4][1:3], result[2][-1]])
    return result


class Pass:
    """Tokens with their positions and what each sees, put together segment by segment."""

    def __init__(self):
        self.ids: list[int] = []
        self.positions: list[float] = []
        self.rows: list[list[range]] = []
        self.context: list[bool] = []

    def add(self, ids: list[int], positions, sees: list[range], context: bool = False) -> range:
        """Causal inside; beside that, the segments in `sees`. Returns the segment's range."""
        own = range(len(self.ids), len(self.ids) + len(ids))
        for t, i in enumerate(own):
            self.rows.append([*sees, range(own.start, i + 1)])
        self.ids += ids
        self.positions += [float(p) for p in positions]
        self.context += [context] * len(ids)
        return own

    def mask(self) -> torch.Tensor:
        sees = torch.zeros(len(self.ids), len(self.ids), dtype=torch.bool)
        for i, ranges in enumerate(self.rows):
            for r in ranges:
                sees[i, r.start : r.stop] = True
        return additive(sees)

    @torch.no_grad()
    def run(self, model, cache=None) -> torch.Tensor:
        return model.model(
            input_ids=torch.tensor([self.ids]),
            attention_mask=self.mask(),
            position_ids=torch.tensor([self.positions], dtype=torch.float64),
            past_key_values=cache,
            use_cache=cache is not None,
        ).last_hidden_state[0]


def additive(sees: torch.Tensor) -> torch.Tensor:
    return torch.where(sees, 0.0, torch.finfo(torch.float32).min)[None, None]


def count(start: float, ids: list) -> list[float]:
    return [start + t for t in range(len(ids))]


def starts_of(blocks: list[list[int]]) -> list[int]:
    return list(np.cumsum([0] + [len(b) for b in blocks]))


def placed(model, blocks, rest, starts, end) -> torch.Tensor:
    """Every block alone at its start, the rest behind."""
    p = Pass()
    seen = [p.add(b, count(s, b), []) for b, s in zip(blocks, starts)]
    p.add(rest, count(end, rest), seen)
    return p.run(model)


def local(model, blocks, rest):
    return placed(model, blocks, rest, [0] * len(blocks), sum(map(len, blocks)))


def prompt_cache(model, blocks, rest, left: bool):
    first, longest = len(blocks[0]), max(map(len, blocks[1:]))
    step = 0 if left else longest
    starts = [0] + [first + i * step for i in range(len(blocks) - 1)]
    return placed(model, blocks, rest, starts, first + longest if left else first + step * (len(blocks) - 1))


def windows(model, blocks, rest, right: bool):
    """PCW: each window with its BOS, which only the first keeps for others to see."""
    with_bos = [[BOS] + b for b in blocks]
    longest = max(map(len, with_bos))
    p = Pass()
    seen = []
    for i, w in enumerate(with_bos):
        own = p.add(w, count(longest - len(w) if right else 0, w), [])
        seen.append(own if i == 0 else range(own.start + 1, own.stop))
    p.add(rest, count(longest, rest), seen)
    return p.run(model)


def links(model, blocks, rest):
    p = Pass()
    seen: list[range] = []
    at = 0
    for i, b in enumerate(blocks):
        seen.append(p.add(b, count(at, b), []))
        at += len(b)
        if i > 0:
            link = [LINK_TOKEN + n for n in range(LINKS)]
            seen.append(p.add(link, count(at, link), list(seen)))
            at += LINKS
    p.add(rest, count(at, rest), seen)
    return p.run(model)


def mean_log_probability(model, hidden: torch.Tensor, ids: list[int]) -> float:
    log_p = torch.log_softmax(oracle.logits_of(model, hidden).double(), dim=-1)
    scores = [log_p[t, ids[t + 1]].item() for t in range(len(ids) - 1)]
    return sum(scores) / len(scores) if scores else 0.0


def superposition(model, blocks, rest, extra: list[int]):
    preamble, documents = blocks[0], blocks[1:]
    query, task = rest[: len(rest) - len(extra) - TASK], rest[len(rest) - len(extra) - TASK :]
    width = len(documents) / sum(1 / len(d) for d in documents)

    def paths(p: Pass, chosen):
        first = p.add(preamble, count(0, preamble), [])
        ranges = []
        for i in chosen:
            d = documents[i]
            document = p.add(d, [len(preamble) + t * width / len(d) for t in range(len(d))], [first])
            ranges.append((document, p.add(query, count(len(preamble) + width, query), [first, document])))
        return first, ranges

    everything = Pass()
    _, ranges = paths(everything, range(len(documents)))
    hidden = everything.run(model)
    scores = [
        mean_log_probability(model, hidden[d.start : d.stop], documents[i]) + mean_log_probability(model, hidden[q.start : q.stop], query)
        for i, (d, q) in enumerate(ranges)
    ]
    best = sorted(sorted(range(len(documents)), key=lambda i: -scores[i])[:KEEP])
    kept = Pass()
    first, ranges = paths(kept, best)
    kept.add(task, count(len(preamble) + width + len(query), task), [first, *(r for pair in ranges for r in pair)])
    return kept.run(model)


APE_ROWS: dict = {}


def ape_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Rows from `first` on weigh context columns apart from the others; the other rows are ordinary."""
    groups = module.num_key_value_groups
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scores = query @ key.transpose(2, 3) * scaling
    plain = torch.softmax(scores + attention_mask, dim=-1) @ value
    first, context = APE_ROWS["first"], APE_ROWS["context"]
    lowest = torch.finfo(torch.float32).min
    warm = (scores / T + attention_mask).masked_fill(~context, lowest)
    others = (scores + attention_mask).masked_fill(context, lowest)
    weight = torch.softmax(torch.stack([S * T * warm.logsumexp(-1), others.logsumexp(-1)]), dim=0)[..., None]
    mixed = weight[0] * (torch.softmax(warm, -1) @ value) + weight[1] * (torch.softmax(others, -1) @ value)
    plain[:, :, first:] = mixed[:, :, first:]
    return plain.transpose(1, 2).contiguous(), None


def ape(model, blocks, rest):
    p = Pass()
    prefix = p.add(blocks[0], count(0, blocks[0]), [])
    seen = [p.add(b, count(len(blocks[0]), b), [prefix], context=True) for b in blocks[1:]]
    own = p.add(rest, count(len(blocks[0]) + max(map(len, blocks[1:])), rest), [prefix, *seen])
    APE_ROWS.update(first=own.start, context=torch.tensor(p.context))
    transformers.AttentionInterface.register("ape", ape_attention)
    model.set_attn_implementation("ape")
    try:
        return p.run(model)
    finally:
        model.set_attn_implementation("eager")


class Columns:
    """Keys (rotated) and values of each layer, [1, Hkv, T, Dh], by columns."""

    def __init__(self, cache=None):
        self.layers = [(layer.keys, layer.values) for layer in cache.layers] if cache is not None else []

    def take(self, columns: list[int]) -> Columns:
        result = Columns()
        result.layers = [(k[:, :, columns], v[:, :, columns]) for k, v in self.layers]
        return result

    def turned(self, model, by: float) -> Columns:
        result = Columns()
        at = torch.full((1, self.layers[0][0].shape[2]), float(by), dtype=torch.float64)
        for k, v in self.layers:
            cos, sin = model.model.rotary_emb(v, at)
            result.layers.append((apply_rotary_pos_emb(k, k, cos, sin)[1], v))
        return result

    def joined(self, other: Columns) -> Columns:
        result = Columns()
        result.layers = [(torch.cat([a, c], 2), torch.cat([b, d], 2)) for (a, b), (c, d) in zip(self.layers, other.layers)]
        return result

    def cache(self):
        result = transformers.DynamicCache()
        for i, (k, v) in enumerate(self.layers):
            result.update(k, v, i)
        return result


def columns_of(model, p: Pass) -> Columns:
    cache = transformers.DynamicCache()
    p.run(model, cache)
    return Columns(cache)


@torch.no_grad()
def run_behind(model, columns: Columns, column_positions: list[int], ids: list[int], positions: list[int]) -> torch.Tensor:
    """Tokens over placed columns: each sees what lies at or before its position."""
    at = torch.tensor(positions)
    keys = torch.cat([torch.tensor(column_positions, dtype=torch.long), at])
    return model.model(
        input_ids=torch.tensor([ids]),
        attention_mask=additive(keys[None] <= at[:, None]),
        position_ids=at[None],
        past_key_values=columns.cache(),
        use_cache=True,
    ).last_hidden_state[0]


def block_pass(model, blocks) -> Columns:
    p = Pass()
    for b, start in zip(blocks, starts_of(blocks)):
        p.add(b, count(start, b), [])
    return columns_of(model, p)


def prefixed(model, blocks, rest):
    first, starts = blocks[0], starts_of(blocks)
    result = None
    for b, start in zip(blocks[1:], starts[1:]):
        p = Pass()
        before = p.add(first, count(0, first), [])
        own = p.add(b, count(len(first), b), [before])
        columns = columns_of(model, p)
        result = result or columns.take(list(before))
        result = result.joined(columns.take(list(own)).turned(model, start - len(first)))
    return run_behind(model, result, list(range(starts[-1])), rest, list(range(starts[-1], starts[-1] + len(rest))))


def recompute(model, columns: Columns, cached: list[int], chosen: list[int], rest):
    kept = [i for i in range(len(cached)) if i not in set(chosen)]
    ids = [cached[i] for i in chosen] + rest
    return run_behind(model, columns.take(kept), kept, ids, chosen + list(range(len(cached), len(cached) + len(rest))))


def epic(model, blocks, rest):
    starts = starts_of(blocks)
    chosen = [s + t for b, s in list(zip(blocks, starts))[1:] for t in range(min(EPIC_K, len(b)))]
    return recompute(model, block_pass(model, blocks), [i for b in blocks for i in b], chosen, rest)


def cache_blend(model, blocks, rest, check: int, by_values: bool):
    cached = [i for b in blocks for i in b]
    columns = block_pass(model, blocks)
    p = Pass()
    p.add(cached, count(0, cached), [])
    full = columns_of(model, p)
    fresh, old = (x.layers[check][1 if by_values else 0] for x in (full, columns))
    deviation = (fresh - old).pow(2).sum(dim=(0, 1, 3))
    chosen = sorted(torch.argsort(deviation, descending=True, stable=True)[: round(RATIO * len(cached))].tolist())
    columns.layers[:check] = full.layers[:check]
    return recompute(model, columns, cached, chosen, rest)


PLANS = {
    "local": lambda m, b, r, e: local(m, b, r),
    "prefixed": lambda m, b, r, e: prefixed(m, b, r),
    "promptcache": lambda m, b, r, e: prompt_cache(m, b, r, left=False),
    "promptcache:align=left": lambda m, b, r, e: prompt_cache(m, b, r, left=True),
    f"pcw:bos={BOS}": lambda m, b, r, e: windows(m, b, r, right=False),
    f"pcw:align=right,bos={BOS}": lambda m, b, r, e: windows(m, b, r, right=True),
    f"superposition:k={KEEP},task={TASK}": superposition,
    f"ape:T={T},S={S}": lambda m, b, r, e: ape(m, b, r),
    f"epic:k={EPIC_K}": lambda m, b, r, e: epic(m, b, r),
    f"cacheblend:ratio={RATIO}": lambda m, b, r, e: cache_blend(m, b, r, 1, False),
    f"cacheblend:ratio={RATIO},check=3,by=values": lambda m, b, r, e: cache_blend(m, b, r, 3, True),
    f"kvlink:n={LINKS},token={LINK_TOKEN}": lambda m, b, r, e: links(m, b, r),
}
# Repeated with one token more, as in decoding, on this prompt; the last two variants of CacheBlend on few prompts, to keep the file small.
FOLLOWED, FEW = 1, 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    file = oracle.Checkpoint(args.model)
    model, tokenizer = oracle.build_model(file), oracle.build_tokenizer(file)
    asked = prompts(tokenizer)
    cases = []
    for plan, run in PLANS.items():
        for number, blocks in enumerate(asked):
            if "check=3" in plan and number >= FEW:
                continue
            extra = [blocks[1][0]] if number == FOLLOWED else []
            hidden = run(model, blocks[:-1], blocks[-1] + extra, extra)
            states = hidden[-1 - len(extra) :].numpy().astype("<f2").tobytes()
            name = plan.encode()
            cases.append(struct.pack("<I", len(name)) + name + struct.pack("<II", number, extra[0] if extra else NONE) + states)
        print(plan, file=sys.stderr)
    out = b"BAPLAN01" + struct.pack("<II", model.config.hidden_size, len(asked))
    for blocks in asked:
        out += struct.pack("<I", len(blocks)) + b"".join(struct.pack("<I", len(b)) + np.array(b, dtype="<u2").tobytes() for b in blocks)
    args.out.write_bytes(out + struct.pack("<I", len(cases)) + b"".join(cases))
    print(f"{len(cases)} cases, {args.out.stat().st_size} bytes in {args.out}")


if __name__ == "__main__":
    main()
