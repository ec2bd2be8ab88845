"""An extra training signal: where the answer is.

What a small model lacks among many passages is the choice of the right one. The training prompts know it, so the attention of the last prompt token
(the one that predicts the answer's first) is asked to find it: for each middle layer, the share of attention on the gold passage, averaged over the
three heads of the layer with the largest shares, enters the loss as -log. Nothing is added to the model.
"""
from __future__ import annotations

import torch
import transformers
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from prompts import Batch

NAME = "sdpa_watched"


class Watcher:
    """Collects shares of attention on the gold passage while `batch` is set. One at a time."""

    def __init__(self, layers: int, heads: int = 3):
        self.layers, self.heads = range(int(0.4 * layers), int(0.8 * layers)), heads
        self.batch: Batch | None = None
        self.terms: list[torch.Tensor] = []

    def install(self, model) -> None:
        transformers.AttentionInterface.register(NAME, self.attention)
        transformers.AttentionMaskInterface.register(NAME, sdpa_mask)
        model.set_attn_implementation(NAME)

    def attention(self, module, query, key, value, attention_mask, scaling=None, **rest):
        if self.batch is not None and module.layer_idx in self.layers:
            self.terms.append(self.term(query, key, scaling))
        return sdpa_attention_forward(module, query, key, value, attention_mask, scaling=scaling, **rest)

    def term(self, query: torch.Tensor, key: torch.Tensor, scaling: float) -> torch.Tensor:
        """Mean of -log share over the batch. query [B, H, T, Dh], key [B, Hkv, T, Dh]."""
        batch, (b, h, t, d) = self.batch, query.shape
        last = batch.answer - 1
        asked = query[torch.arange(b, device=query.device), :, last].view(b, key.shape[1], -1, d)
        scores = (asked @ key.transpose(2, 3)).float() * scaling
        later = torch.arange(t, device=query.device) > last[:, None]
        weights = torch.softmax(scores.masked_fill(later[:, None, None], -torch.inf), -1)
        share = (weights * (batch.block == batch.gold[:, None])[:, None, None]).sum(-1).view(b, h)
        best = share.topk(min(self.heads, h), dim=1).values.mean(1)
        return -(best[batch.gold >= 0] + 1e-6).log().mean()

    def take(self) -> torch.Tensor:
        """Mean over the layers since the last call."""
        result = torch.stack(self.terms).mean()
        self.terms = []
        return result
