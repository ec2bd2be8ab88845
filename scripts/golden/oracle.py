"""The reference model: a GGUF checkpoint's dequantised weights in transformers' LlamaForCausalLM or Qwen2ForCausalLM, float32 throughout.

Nothing here shares code with the library. Weights are dequantised by gguf-py, the network is transformers', the tokenizer is
the `tokenizers` package fed with the file's own vocabulary and merges.

Convention. GGUF files of architecture `llama` pair channels (2i, 2i+1) of a head for RoPE, transformers pairs (i, i + Dh/2).
So row 2i + s of a head in the file is row s * Dh/2 + i in transformers, s in {0, 1}; only attn_q and attn_k are affected. Files of
architecture `qwen2` pair channels as transformers does.
"""
from __future__ import annotations

import copy
import dataclasses
import pathlib

import gguf
import numpy as np
import tokenizers
import torch
import transformers


class Checkpoint:
    """Metadata and dequantised tensors of one GGUF file."""

    def __init__(self, path: pathlib.Path):
        self.path = pathlib.Path(path)
        self.reader = gguf.GGUFReader(str(path))
        self.tensors = {t.name: t for t in self.reader.tensors}

    def value(self, key: str, default=None):
        field = self.reader.fields.get(key)
        return default if field is None else field.contents()

    def tensor(self, name: str) -> np.ndarray:
        """float32, shape [rows, columns] = [outputs, inputs] (or [values])."""
        t = self.tensors[name]
        values = gguf.quants.dequantize(t.data, t.tensor_type)
        return np.array(values, dtype=np.float32).reshape([int(n) for n in reversed(t.shape)])


def to_half_pairing(weight: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a Q or K projection from the file's (2i, 2i+1) pairs to transformers' (i, i + Dh/2). Shape stays [heads * Dh, D]."""
    head_dim = weight.shape[0] // heads
    pairs = weight.reshape(heads, head_dim // 2, 2, weight.shape[1])
    return np.ascontiguousarray(pairs.transpose(0, 2, 1, 3)).reshape(weight.shape)


def build_model(file: Checkpoint) -> transformers.PreTrainedModel:
    """transformers' model with the file's weights, float32, eager attention."""
    architecture = file.value("general.architecture")
    if architecture not in ("llama", "qwen2"):
        raise SystemExit(f"[oracle] {file.path}: architecture '{architecture}'; known: llama, qwen2")
    is_llama = architecture == "llama"
    number = lambda key: file.value(f"{architecture}.{key}")  # noqa: E731
    heads, kv_heads = number("attention.head_count"), number("attention.head_count_kv")
    classes = (transformers.LlamaConfig, transformers.LlamaForCausalLM) if is_llama else (transformers.Qwen2Config, transformers.Qwen2ForCausalLM)
    config = classes[0](
        vocab_size=file.tensors["token_embd.weight"].shape[1].item(),
        hidden_size=number("embedding_length"),
        intermediate_size=number("feed_forward_length"),
        num_hidden_layers=number("block_count"),
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=number("context_length"),
        rms_norm_eps=number("attention.layer_norm_rms_epsilon"),
        rope_theta=number("rope.freq_base"),
        tie_word_embeddings="output.weight" not in file.tensors,
        attn_implementation="eager",
        **({"attention_bias": False, "mlp_bias": False} if is_llama else {}),
    )
    with torch.device("meta"):
        model = classes[1](config)
    state = {
        "model.embed_tokens.weight": file.tensor("token_embd.weight"),
        "model.norm.weight": file.tensor("output_norm.weight"),
    }
    state["lm_head.weight"] = (
        state["model.embed_tokens.weight"] if config.tie_word_embeddings else file.tensor("output.weight")
    )
    paired = to_half_pairing if is_llama else lambda weight, _: weight
    for layer in range(config.num_hidden_layers):
        here, there = f"blk.{layer}.", f"model.layers.{layer}."
        state[there + "self_attn.q_proj.weight"] = paired(file.tensor(here + "attn_q.weight"), heads)
        state[there + "self_attn.k_proj.weight"] = paired(file.tensor(here + "attn_k.weight"), kv_heads)
        state[there + "self_attn.v_proj.weight"] = file.tensor(here + "attn_v.weight")
        state[there + "self_attn.o_proj.weight"] = file.tensor(here + "attn_output.weight")
        state[there + "mlp.gate_proj.weight"] = file.tensor(here + "ffn_gate.weight")
        state[there + "mlp.up_proj.weight"] = file.tensor(here + "ffn_up.weight")
        state[there + "mlp.down_proj.weight"] = file.tensor(here + "ffn_down.weight")
        state[there + "input_layernorm.weight"] = file.tensor(here + "attn_norm.weight")
        state[there + "post_attention_layernorm.weight"] = file.tensor(here + "ffn_norm.weight")
        if not is_llama:
            for name in "qkv":
                state[there + f"self_attn.{name}_proj.bias"] = file.tensor(here + f"attn_{name}.bias").reshape(-1)
    used = len(state) - 1 if config.tie_word_embeddings else len(state)
    if used != len(file.tensors):
        raise SystemExit(f"[oracle] {file.path}: {len(file.tensors)} tensors, {used} of them used")
    model.load_state_dict({k: torch.from_numpy(v) for k, v in state.items()}, strict=True, assign=True)
    # The rotary frequencies aren't in a state dict and are still on the meta device: made anew.
    model.model.rotary_emb = type(model.model.rotary_emb)(config)
    return model.eval().float()


def build_tokenizer(file: Checkpoint) -> tokenizers.Tokenizer:
    """Byte-level BPE from the file's metadata. `smollm`: single digits, then the GPT-2 pattern; `qwen2`: its own pattern."""
    if file.value("tokenizer.ggml.pre") == "qwen2":
        import make_tokenizer_hashes

        return make_tokenizer_hashes.read_tokenizer(file.path)
    if file.value("tokenizer.ggml.pre") != "smollm":
        raise SystemExit(f"[oracle] {file.path}: pre-tokenizer '{file.value('tokenizer.ggml.pre')}'; known: smollm, qwen2")
    tokens, kinds = file.value("tokenizer.ggml.tokens"), file.value("tokenizer.ggml.token_type")
    merges = [tuple(m.split(" ")) for m in file.value("tokenizer.ggml.merges")]
    result = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab={t: i for i, t in enumerate(tokens)}, merges=merges, ignore_merges=False)
    )
    result.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    result.decoder = tokenizers.decoders.ByteLevel()
    result.add_special_tokens([t for t, kind in zip(tokens, kinds) if kind == gguf.TokenType.CONTROL])
    return result


@dataclasses.dataclass
class Plan:
    """What sees what: `lengths` of consecutive blocks, and how many of the last of them see everything before them."""

    lengths: list[int]
    global_blocks: int = 1

    def mask(self, window: int | None = None) -> torch.Tensor:
        """Additive float32 mask [1, 1, T, T]: 0 where the query (row) sees the key (column), the lowest float elsewhere. A window hides keys so far before."""
        total = sum(self.lengths)
        sees = torch.zeros(total, total, dtype=torch.bool)
        start = 0
        for index, length in enumerate(self.lengths):
            is_global = index >= len(self.lengths) - self.global_blocks
            sees[start : start + length, (0 if is_global else start) : start + length] = True
            start += length
        sees &= torch.ones(total, total, dtype=torch.bool).tril()
        if window is not None:
            sees &= torch.arange(total)[:, None] - torch.arange(total)[None] < window
        return torch.where(sees, 0.0, torch.finfo(torch.float32).min)[None, None]


@torch.no_grad()
def final_hidden(model: transformers.LlamaForCausalLM, ids: list[int], plan: Plan | None = None) -> torch.Tensor:
    """Hidden states [T, D] after the last norm; global positions 0..T-1. Without a plan: plain causal attention."""
    positions = torch.arange(len(ids))[None]
    plan = plan or Plan([len(ids)])
    mask = plan.mask()
    if "sliding_attention" in (getattr(model.config, "layer_types", None) or []):
        mask = {"full_attention": mask, "sliding_attention": plan.mask(model.config.sliding_window)}
    out = model.model(
        input_ids=torch.tensor([ids]),
        attention_mask=mask,
        position_ids=positions,
        use_cache=False,
    )
    return out.last_hidden_state[0]


@torch.no_grad()
def logits_of(model: transformers.LlamaForCausalLM, hidden: torch.Tensor) -> torch.Tensor:
    """Logits [T, V] of final hidden states [T, D]."""
    return model.lm_head(hidden)


class _DoubleRotary(torch.nn.Module):
    """cos and sin [1, T, Dh] of angles computed in float64, which transformers computes in float32."""

    def __init__(self, theta: float, head_dim: int):
        super().__init__()
        self.frequencies = theta ** (-torch.arange(0, head_dim, 2, dtype=torch.float64) / head_dim)

    def forward(self, x: torch.Tensor, position_ids: torch.Tensor):
        angles = position_ids[..., None].double() * self.frequencies
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos(), angles.sin()


def _double_attention(module, query, key, value, attention_mask, scaling, dropout=0.0, **kwargs):
    """Eager attention whose softmax stays in the dtype of its input (transformers' goes through float32)."""
    groups = module.num_key_value_groups
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    weights = torch.softmax(query @ key.transpose(2, 3) * scaling + attention_mask, dim=-1)
    return (weights @ value).transpose(1, 2).contiguous(), weights


def to_float64(model: transformers.LlamaForCausalLM) -> transformers.LlamaForCausalLM:
    """A copy in double precision, rotary angles, norms and softmax included: it shows what the float32 oracle itself is worth."""
    transformers.AttentionInterface.register("double", _double_attention)
    result = copy.deepcopy(model).double()
    result.set_attn_implementation("double")
    config = model.config
    result.model.rotary_emb = _DoubleRotary(config.rope_theta, config.hidden_size // config.num_attention_heads)

    class DoubleNorm(torch.nn.Module):
        """RMS norm without transformers' detour through float32."""

        def __init__(self, weight: torch.Tensor, epsilon: float):
            super().__init__()
            self.weight, self.epsilon = weight, epsilon

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.weight * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.epsilon)

    epsilon = config.rms_norm_eps
    for layer in result.model.layers:
        layer.input_layernorm = DoubleNorm(layer.input_layernorm.weight, epsilon)
        layer.post_attention_layernorm = DoubleNorm(layer.post_attention_layernorm.weight, epsilon)
    result.model.norm = DoubleNorm(result.model.norm.weight, epsilon)
    return result
