"""LoRA adapters as GGUF files, as llama.cpp reads them.

    general.architecture = llama or qwen2, general.type = adapter, adapter.type = lora, adapter.lora.alpha
    blk.N.NAME.weight.lora_a   [r, inputs]   (ggml writes the dimensions the other way round)
    blk.N.NAME.weight.lora_b   [outputs, r]

    blockattn.lora.base_weights     fingerprint of the base's tensors (`blockattn inspect MODEL --fingerprint`); added by main()

    python export_gguf.py ADAPTER.gguf OUT.gguf --base-weights HEX [--set general.license=apache-2.0 ...]

The scale is alpha / r, r being lora_b's inner dimension. Files of architecture `llama` pair channels (2i, 2i+1) for RoPE and transformers (i, i + Dh/2):
the rows of lora_b of attn_q and attn_k are reordered as those of the matrices themselves are (see ../golden/oracle.py for the other direction).
"""
from __future__ import annotations

import argparse
import pathlib

import gguf
import numpy as np
import torch

from lora import LoraLinear, add_lora


def to_pairs(rows: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a Q or K projection from transformers' (i, i + Dh/2) to the file's (2i, 2i+1). Shape stays [heads * Dh, n]."""
    halves = rows.reshape(heads, 2, rows.shape[0] // heads // 2, rows.shape[1])
    return np.ascontiguousarray(halves.transpose(0, 2, 1, 3)).reshape(rows.shape)


def to_halves(rows: np.ndarray, heads: int) -> np.ndarray:
    """The inverse of to_pairs()."""
    pairs = rows.reshape(heads, rows.shape[0] // heads // 2, 2, rows.shape[1])
    return np.ascontiguousarray(pairs.transpose(0, 2, 1, 3)).reshape(rows.shape)


def heads_of(name: str, config) -> int:
    """Heads whose rows are reordered in a tensor; 0: none are."""
    if config.model_type != "llama":
        return 0
    return config.num_attention_heads if ".attn_q." in name else config.num_key_value_heads if ".attn_k." in name else 0


def save(path: pathlib.Path, modules: dict[str, LoraLinear], config, alpha: float, title: str, kind=gguf.GGMLQuantizationType.Q8_0) -> None:
    """Writes an adapter, its matrices in Q8_0 unless told otherwise (F16, F32)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    writer = gguf.GGUFWriter(str(path), config.model_type)
    writer.add_type("adapter")
    writer.add_name(title)
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", alpha)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    for name, module in modules.items():
        b = module.b.detach().float().cpu().numpy()
        if heads := heads_of(name, config):
            b = to_pairs(b, heads)
        for suffix, values in ((".lora_a", module.a.detach().float().cpu().numpy()), (".lora_b", b)):
            writer.add_tensor(name + suffix, gguf.quants.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def attach(model, path: pathlib.Path) -> dict[str, LoraLinear]:
    """Puts a file's adapter on a model; every target must be in the file with the right shape."""
    reader = gguf.GGUFReader(str(path))
    alpha = float(reader.fields["adapter.lora.alpha"].contents())
    tensors = {t.name: gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32) for t in reader.tensors}
    rank = next(iter(tensors.values())).shape[0]
    modules = add_lora(model, rank, alpha)
    if set(tensors) != {name + s for name in modules for s in (".lora_a", ".lora_b")}:
        raise SystemExit(f"[export_gguf] {path}: its tensors aren't those of this model's layers")
    for name, module in modules.items():
        a, b = tensors[name + ".lora_a"], tensors[name + ".lora_b"]
        if heads := heads_of(name, model.config):
            b = to_halves(b, heads)
        if a.shape != tuple(module.a.shape) or b.shape != tuple(module.b.shape):
            raise SystemExit(f"[export_gguf] {path}: {name} has shapes {a.shape}, {b.shape}; the model needs {tuple(module.a.shape)}, {tuple(module.b.shape)}")
        with torch.no_grad():
            module.a.copy_(torch.from_numpy(a))
            module.b.copy_(torch.from_numpy(b))
    return modules


def with_metadata(path: pathlib.Path, out: pathlib.Path, added: dict[str, str]) -> None:
    """A copy of an adapter with more metadata (strings); its tensors stay as they are."""
    reader = gguf.GGUFReader(str(path))
    writer = gguf.GGUFWriter(str(out), reader.fields["general.architecture"].contents())
    for key, field in reader.fields.items():
        if key.startswith("GGUF.") or key == "general.architecture" or key in added:
            continue
        writer.add_key_value(key, field.contents(), field.types[0])
    for key, value in added.items():
        writer.add_string(key, value)
    for t in reader.tensors:
        writer.add_tensor(t.name, t.data, raw_dtype=t.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="Adds metadata to an adapter: which checkpoint it is for, and what else is to be said.")
    parser.add_argument("adapter", type=pathlib.Path)
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--base-weights", required=True, help="what `blockattn inspect MODEL --fingerprint` prints")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE")
    args = parser.parse_args()
    added = {"blockattn.lora.base_weights": args.base_weights, **dict(pair.split("=", 1) for pair in args.set)}
    with_metadata(args.adapter, args.out, added)


if __name__ == "__main__":
    main()
