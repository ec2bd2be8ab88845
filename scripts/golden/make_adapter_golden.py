"""Next-token probabilities of the checkpoint with the shipped adapter, in transformers in float32: tests/golden/adapter_smollm2.json.

    python make_adapter_golden.py MODEL.gguf ../../adapters/SmolLM2-135M-Instruct-block-lora.gguf ../../tests/golden/adapter_smollm2.json

Prompts are those of `blockattn run --chat`: system message, passages, question; each in full and block mode. `top` holds the 8 most probable
tokens with their log-probabilities. tests/command/test_adapters.cpp compares.
"""
from __future__ import annotations

import json
import pathlib
import sys

import torch

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "block_finetune"))
import evaluate  # noqa: E402
import export_gguf  # noqa: E402
import prompts as p  # noqa: E402
from data import Passage  # noqa: E402

PASSAGES = [
    Passage("Ostrey lighthouse", "The lighthouse of Ostrey was finished in 1874. It is 41 metres high, and its light is seen 22 sea miles away."),
    Passage("Sandholm ferry", "The ferry to Sandholm leaves at 9:40 and at 16:15. Bicycles travel free, dogs pay half."),
    Passage("Ida Brekke", "Ida Brekke kept the light of Ostrey for 33 years. Before that she mended nets in Sandholm."),
]
QUESTIONS = ["How high is the lighthouse of Ostrey?", "When does the last ferry to Sandholm leave?", "who kept the light of ostrey"]


def main() -> None:
    model_file, adapter, out = map(pathlib.Path, sys.argv[1:4])
    model, tokenizer = evaluate.load_base(model_file, "cpu")
    export_gguf.attach(model, adapter)
    model.eval()
    builder = p.PromptBuilder(tokenizer)
    cases = []
    for question in QUESTIONS:
        prompt = builder.rag(p.SYSTEM, PASSAGES, question)
        for mode in ("full", "block"):
            with torch.no_grad():
                hidden = p.hidden_states(model, p.collate([prompt], "cpu"), mode)[0, len(prompt) - 1]
                top = torch.log_softmax(model.lm_head(hidden).double(), -1).topk(8)
            blocks = [p.SYSTEM, *(f"{x.title}\n{x.text}" for x in PASSAGES), question]
            cases.append({"mode": mode, "tokens": len(prompt), "top": [[i, round(v, 5)] for i, v in zip(top.indices.tolist(), top.values.tolist())], "blocks": blocks})
    out.write_text("[\n" + ",\n".join(json.dumps(c) for c in cases) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
