"""Writes tests/golden/tokenizer_json.jsonl: small tokenizers of many shapes, trained here, and what Hugging Face's `tokenizers` does with them.

One line a tokenizer: {"name", "tokenizer": its tokenizer.json, "cases": [[text, ids, decoded], ...]}. Ids are without what the
post-processor adds; `decoded` keeps special tokens.

    python make_tokenizer_json_golden.py ../../examples/documents ../../tests/golden
"""
from __future__ import annotations

import argparse
import json
import pathlib
import random

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
BYTES = pre_tokenizers.ByteLevel.alphabet()
BYTE_TOKENS = [f"<0x{byte:02X}>" for byte in range(256)]


def llama_decoder(strip: int):
    parts = [decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence(parts + ([decoders.Strip(" ", strip, 0)] if strip else []))


def bpe(normalizer, pre_tokenizer, decoder, byte_level: bool, byte_fallback: bool, **options) -> Tokenizer:
    result = Tokenizer(models.BPE(byte_fallback=byte_fallback, unk_token=None if byte_level else "<unk>", **options))
    if normalizer:
        result.normalizer = normalizer
    if pre_tokenizer:
        result.pre_tokenizer = pre_tokenizer
    result.decoder = decoder
    special = ["<unk>", "<s>", "</s>"] + (BYTE_TOKENS if byte_fallback else [])
    trainer = trainers.BpeTrainer(vocab_size=(320 if byte_level or byte_fallback else 120), special_tokens=special, initial_alphabet=BYTES if byte_level else [], limit_alphabet=256 if byte_level else 50, show_progress=False)
    result.train_from_iterator(CORPUS, trainer)
    return result


def unigram(normalizer, pre_tokenizer, decoder) -> Tokenizer:
    result = Tokenizer(models.Unigram())
    if normalizer:
        result.normalizer = normalizer
    result.pre_tokenizer = pre_tokenizer
    result.decoder = decoder
    result.train_from_iterator(CORPUS, trainers.UnigramTrainer(vocab_size=120, special_tokens=["<unk>", "<s>", "</s>"], unk_token="<unk>", show_progress=False))
    return result


def drop_special(tokenizer: Tokenizer, texts: set[str]) -> Tokenizer:
    """Byte tokens were special for training only."""
    data = json.loads(tokenizer.to_str())
    data["added_tokens"] = [t for t in data["added_tokens"] if t["content"] not in texts]
    return Tokenizer.from_str(json.dumps(data))


def all_tokenizers():
    byte_level = lambda **o: pre_tokenizers.ByteLevel(add_prefix_space=False, **o)
    yield "gpt2", bpe(None, byte_level(), decoders.ByteLevel(), True, False)
    yield "gpt2 with a space before", bpe(None, pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel(), True, False)
    qwen = bpe(normalizers.NFC(), pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(QWEN2), "isolated"), byte_level(use_regex=False)]), decoders.ByteLevel(), True, False, ignore_merges=True)
    qwen.add_special_tokens([AddedToken("<|end|>", special=True, normalized=False, rstrip=True), AddedToken("<|begin|>", special=True, normalized=False, lstrip=True)])
    qwen.add_tokens([AddedToken("ferry", single_word=True, normalized=False), AddedToken("\u1ecd\u0300k", normalized=True), AddedToken("  ", normalized=False)])
    qwen.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 2)])
    yield "qwen2 with added tokens", qwen
    yield "digits and punctuation", bpe(normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]), pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.Punctuation("contiguous"), byte_level()]), decoders.ByteLevel(), True, False)
    yield "cuts that join", bpe(normalizers.Replace(Regex(r"\s{2,}"), " "), pre_tokenizers.Sequence([pre_tokenizers.Split(" ", "merged_with_next"), pre_tokenizers.Split(Regex("[,.;]"), "merged_with_previous"), pre_tokenizers.Split("e", "removed"), byte_level(use_regex=False)]), decoders.ByteLevel(), True, False)
    legacy = bpe(normalizers.Sequence([normalizers.Prepend("\u2581"), normalizers.Replace(" ", "\u2581")]), None, llama_decoder(1), False, True, fuse_unk=True)
    yield "llama", drop_special(legacy, set(BYTE_TOKENS))
    for scheme in ("first", "always", "never"):
        split = scheme != "first"
        yield f"metaspace {scheme}", drop_special(bpe(None, pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split), decoders.Metaspace(prepend_scheme=scheme, split=split), False, False, fuse_unk=scheme == "always"), set())
    gemma = bpe(normalizers.Replace(" ", "\u2581"), pre_tokenizers.Split(" ", "merged_with_previous"), llama_decoder(0), False, True, fuse_unk=True)
    gemma.add_tokens([AddedToken("\n\n", normalized=False), AddedToken("\u2581\u2581", normalized=False)])
    yield "gemma", drop_special(gemma, set(BYTE_TOKENS))
    yield "unigram", unigram(normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]), pre_tokenizers.Metaspace(), decoders.Metaspace())
    yield "unigram of words", unigram(normalizers.Sequence([normalizers.Strip(), normalizers.Lowercase()]), pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]), decoders.Metaspace())


def texts(rng: random.Random) -> list[str]:
    fixed = ["", " ", "  a", "a  ", "The ferry leaves at 9:40, doesn't it?", "ferryman ferry,ferry", "a\n\nb \n\n c", "caf\u00e9 cafe\u0301 o\u0323\u0300k o\u0300\u0323k \u1ecd\u0300k", "\u2581x \u2581\u2581y", "<s>x</s> y", "x <|end|>  y", "x  <|begin|> y",
             "你好 🙂", "\t tab", "ＦＵＬＬ ﬁne ½", "12345 6,78", "İstanbul", "a\x00b\x7f", "... --- !!!", "X", "<unk> <0x41>", "aaaaaaaaaaaaaaaaaaaa", " " * 20 + "x", "ΣΊΣΥΦΟΣ", "\u3000wide\u00a0space"]
    words = ["the", " ferry", " Lighthouse", "\n", "  ", ".", ",", " 42", "é", "é", "🙂", "\u2581", "<s>", "keeper's", "-", "日本", "e"]
    return fixed + ["".join(rng.choice(words) for _ in range(rng.randrange(1, 12))) for _ in range(6)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("documents", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    options = parser.parse_args()
    global CORPUS
    CORPUS = [path.read_text() for path in sorted(options.documents.iterdir())]
    lines = []
    for name, tokenizer in all_tokenizers():
        cases = []
        for text in texts(random.Random(7)):
            ids = tokenizer.encode(text, add_special_tokens=False).ids
            cases.append([text, ids, tokenizer.decode(ids, skip_special_tokens=False)])
        lines.append(json.dumps({"name": name, "tokenizer": json.loads(tokenizer.to_str()), "cases": cases}, ensure_ascii=False, separators=(",", ":")))
    path = options.output / "tokenizer_json.jsonl"
    path.write_text("\n".join(lines) + "\n")
    print(f"{path}: {len(lines)} tokenizers, {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
