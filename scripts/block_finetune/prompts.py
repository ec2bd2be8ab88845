"""Prompts as `blockattn ask` builds them, batches, and what sees what.

    block 0      <|im_start|>system\\n{system}<|im_end|>\\n<|im_start|>user\\n
    block 1..n   {title}\\n{text}\\n\\n
    final block  {question}<|im_end|>\\n<|im_start|>assistant\\n
    answer       {answer}<|im_end|>

Each block is tokenised by itself and the ids are put one after the other. Positions are global. In block mode a token of a block but the last sees
its own block up to itself; the final block and the answer see everything before them.

Shapes: B prompts, T tokens, padded on the right.
"""
from __future__ import annotations

import dataclasses

import tokenizers
import torch

from data import Passage

SYSTEM = "You answer questions about the passages below. Answer in one short sentence, only with facts from the passages."
SYSTEMS = [  # the first is the command's own and is what the evaluation uses; training draws it half of the time
    SYSTEM,
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
    "Answer the question with the help of the passages.",
    "Use only the documents that follow. Be brief.",
    "You are an assistant for the documents of a team. Give a short answer.",
    "Read the texts and answer the question after them in a few words.",
    "Some of the passages below may have nothing to do with the question. Find the one that does and answer from it.",
    "Write a high-quality answer for the given question using only the provided search results.",
]


@dataclasses.dataclass
class Prompt:
    """Token ids of the blocks, and of the wanted answer with its end; index of the block that has the answer (-2: unknown)."""

    blocks: list[list[int]]
    answer: list[int] = dataclasses.field(default_factory=list)
    gold: int = -2

    def __len__(self) -> int:
        return sum(map(len, self.blocks)) + len(self.answer)


class PromptBuilder:
    """Text to Prompt; remembers the ids of passages."""

    def __init__(self, tokenizer: tokenizers.Tokenizer):
        self.tokenizer = tokenizer
        self.end = tokenizer.token_to_id("<|im_end|>")
        self.remembered: dict[str, list[int]] = {}

    def encode(self, text: str) -> list[int]:
        if text not in self.remembered:
            self.remembered[text] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return self.remembered[text]

    def rag(self, system: str, passages: list[Passage], question: str, answer: str | None = None) -> Prompt:
        texts = [f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n"]
        for p in passages:
            text = f"{p.title}\n{p.text}"
            texts.append(text if text.endswith("\n") else text + "\n\n")
        texts.append(f"{question}<|im_end|>\n<|im_start|>assistant\n")
        target = [] if answer is None else self.tokenizer.encode(answer, add_special_tokens=False).ids + [self.end]
        return Prompt([self.encode(t) for t in texts], target)

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids, skip_special_tokens=True)


@dataclasses.dataclass
class Batch:
    """`ids` [B, T]; `block` [B, T] block index, -1 in padding; `final` [B] index of the final block; `answer` [B] where the answer starts; `gold` [B] as in Prompt."""

    ids: torch.Tensor
    block: torch.Tensor
    final: torch.Tensor
    answer: torch.Tensor
    gold: torch.Tensor

    @property
    def lengths(self) -> torch.Tensor:
        return (self.block >= 0).sum(1)

    def positions(self, local: bool = False) -> torch.Tensor:
        """[B, T]. Local: those of non-final blocks count from the block's own start (keys that are not re-encoded)."""
        count = torch.arange(self.ids.shape[1], device=self.ids.device).expand_as(self.ids)
        if not local:
            return count
        starts = torch.zeros_like(count)
        changes = self.block[:, 1:] != self.block[:, :-1]
        starts[:, 1:] = torch.where(changes, count[:, 1:], 0)
        starts = starts.cummax(1).values
        return torch.where(self.block < self.final[:, None], count - starts, count)

    def block_mask(self) -> torch.Tensor:
        """Boolean [B, 1, T, T]: whether the query (row) sees the key (column). Rows of padding see what is before them: no row is empty."""
        t = self.ids.shape[1]
        causal = torch.ones(t, t, dtype=torch.bool, device=self.ids.device).tril()
        same = self.block[:, :, None] == self.block[:, None, :]
        sees_all = (self.block == self.final[:, None]) | (self.block < 0)
        return ((same | sees_all[:, :, None]) & causal)[:, None]


def collate(prompts: list[Prompt], device: torch.device | str, multiple: int = 64) -> Batch:
    longest = max(map(len, prompts))
    longest += -longest % multiple
    ids = torch.zeros(len(prompts), longest, dtype=torch.long)
    block = torch.full_like(ids, -1)
    for row, p in enumerate(prompts):
        flat = [i for b in p.blocks for i in b] + p.answer
        owners = [n for n, b in enumerate(p.blocks) for _ in b] + [len(p.blocks) - 1] * len(p.answer)
        ids[row, : len(flat)] = torch.tensor(flat)
        block[row, : len(flat)] = torch.tensor(owners)
    final = torch.tensor([len(p.blocks) - 1 for p in prompts])
    answer = torch.tensor([len(p) - len(p.answer) for p in prompts])
    gold = torch.tensor([p.gold for p in prompts])
    return Batch(*(x.to(device) for x in (ids, block, final, answer, gold)))


def hidden_states(model, batch: Batch, mode: str, cache=None) -> torch.Tensor:
    """Hidden states [B, T, D] after the last norm. Modes: full, block, local (block, keys left at local positions)."""
    if mode not in ("full", "block", "local"):
        raise ValueError(f"[hidden_states] mode '{mode}'; allowed: full, block, local")
    out = model.model(
        input_ids=batch.ids,
        attention_mask=None if mode == "full" else batch.block_mask(),  # None: causal; padding is on the right
        position_ids=batch.positions(local=mode == "local"),
        past_key_values=cache,
        use_cache=cache is not None,
    )
    return out.last_hidden_state
