"""LoRA on the seven linear maps of each layer: y = W x + (alpha / r) B (A x), A [r, inputs], B [outputs, r]."""
from __future__ import annotations

import math

import torch

# transformers' name in a layer, GGUF's name in a block
TARGETS = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


class LoraLinear(torch.nn.Module):
    """A frozen linear map with a trained low-rank addition; A and B stay float32. B starts at 0."""

    def __init__(self, base: torch.nn.Linear, rank: int, alpha: float, dropout: float = 0.0):
        super().__init__()
        self.base, self.scale, self.dropout = base, alpha / rank, dropout
        device = base.weight.device
        self.a = torch.nn.Parameter(torch.empty(rank, base.in_features, device=device))
        self.b = torch.nn.Parameter(torch.zeros(base.out_features, rank, device=device))
        torch.nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inner = torch.nn.functional.dropout(x, self.dropout, self.training) if self.dropout else x
        inner = torch.nn.functional.linear(inner, self.a.to(x.dtype))
        return self.base(x) + torch.nn.functional.linear(inner, (self.scale * self.b).to(x.dtype))


def add_lora(model, rank: int, alpha: float, dropout: float = 0.0) -> dict[str, LoraLinear]:
    """Puts LoRA on all targets and freezes everything else. GGUF's tensor name -> module."""
    for p in model.parameters():
        p.requires_grad_(False)
    result = {}
    for number, layer in enumerate(model.model.layers):
        for path, name in TARGETS.items():
            part, attribute = path.split(".")
            parent = getattr(layer, part)
            module = LoraLinear(getattr(parent, attribute), rank, alpha, dropout)
            setattr(parent, attribute, module)
            result[f"blk.{number}.{name}.weight"] = module
    return result
