"""Writes tests/golden/tokenizer_hashes.json: token ids of 20,000 random strings by Hugging Face's `tokenizers`, as hashes.

The strings come from a generator that tests/text/test_random_strings.cpp repeats number by number: bytes of all kinds, among them
characters of all Unicode planes, invalid UTF-8, control characters and long runs. `tokenizers` gets them decoded with errors="replace".
The tokenizers are built from each GGUF file's own vocabulary, the way transformers converts such vocabularies: SmolLM2 and Qwen2.5 are
byte-level (each digit alone and the GPT-2 pattern; form NFC and the pattern of Qwen2), Gemma 3 is byte-pair encoding of characters with
byte_fallback, whose merges are all pairs of tokens that make a token, by its score. A chunk is 100 strings; its hash is XXH3-64 of
(number of ids, ids) of each, as little-endian u32.

    python make_tokenizer_hashes.py FOLDER_WITH_THE_MODELS ../../tests/golden
"""
from __future__ import annotations

import argparse
import json
import pathlib
import struct
import sys

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
MASK = (1 << 64) - 1
CHUNKS, STRINGS = 200, 100
MODELS = {"smollm2": "SmolLM2-135M-Instruct.Q4_1.gguf", "qwen2.5": "qwen2.5-coder-0.5b-instruct-q4_k_m.gguf", "gemma3": "gemma-3-270m-q4_k_m.gguf"}
QWEN2 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

RANGES = [(0x20, 0x7F), (0x20, 0x7F), (0x00, 0x20), (0x80, 0x250), (0x250, 0x370), (0x370, 0x700), (0x900, 0xE00), (0x1E00, 0x2000), (0x2000, 0x2800), (0x3000, 0xA000),
          (0xAC00, 0xD7A4), (0xF900, 0x10000), (0x1F300, 0x1FB00), (0x10000, 0x40000), (0x40000, 0x110000)]
LISTS = [
    [" ", "\n", "\t", "\r", "  ", "\u00a0", "\u3000", "\u2028", "\u0085", "\u180e", "\r\n"],
    ["0", "1", "2", "3", "9", "42", "1234567", "²", "½", "Ⅷ", "٣", "௧"],
    ["'s", "'t", "'re", "'ve", "'m", "'ll", "'d", "'S", "'RE", "'", "’s", "'ſ"],
    [" the", " and", "ing", "tion", " of", "Hello", " world", "import", " {\n", "();", "    ", "\n\n", "aaaa", "====", "...", "\u2581", "\u2581\u2581"],
    ["e\u0301", "\u0301", "\u0323\u0307", "\u200d", "가", "ᄀ", "ᅡ", "ᆨ", "\u0f73", "ﬁ", "Å", "\u212b", "Ω", "\u2126", "豈", "\u0338", "क़"],
    ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<bos>", "<eos>", "<end_of_turn>", "<start_of_turn>", "<table>", "</s>", "<unk>", "<", "|>", "<0x41>", "<|", "<unused7>"],
]
REPEATS = [1, 1, 1, 1, 2, 5]


class Numbers:
    """splitmix64."""

    def __init__(self, seed: int):
        self.state = seed

    def below(self, end: int) -> int:
        self.state = (self.state + 0x9E3779B97F4A7C15) & MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
        return (z ^ (z >> 31)) % end


def character(code: int) -> bytes:
    return chr(code).encode() if not 0xD800 <= code < 0xE000 else b"?"


def piece(numbers: Numbers, kind: int) -> bytes:
    if kind < len(RANGES):
        first, end = RANGES[kind]
        return character(first + numbers.below(end - first))
    kind -= len(RANGES)
    if kind < len(LISTS):
        return LISTS[kind][numbers.below(len(LISTS[kind]))].encode()
    return bytes([0x80 + numbers.below(0x80)])  # hardly ever valid


def random_bytes(numbers: Numbers) -> bytes:
    kinds = [numbers.below(len(RANGES) + len(LISTS) + 1) for _ in range(1 + numbers.below(6))]
    out = b""
    for _ in range(1 + numbers.below(40)):
        one = piece(numbers, kinds[numbers.below(len(kinds))])
        times = REPEATS[numbers.below(len(REPEATS))]
        if numbers.below(64) == 0:
            times = 20 + numbers.below(200)
        out += one * times
    return out


def byte_level(value) -> Tokenizer:
    texts, kinds = value("tokens"), value("token_type")
    merges = [tuple(merge.split(" ")) for merge in value("merges")]
    result = Tokenizer(models.BPE({text: i for i, text in enumerate(texts)}, merges))
    if value("pre") == "smollm":
        result.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    elif value("pre") == "qwen2":
        result.normalizer = normalizers.NFC()
        result.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Split(Regex(QWEN2), behavior="isolated", invert=False), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    else:
        raise SystemExit(f"[golden] pre-tokenizer '{value('pre')}'")
    result.decoder = decoders.ByteLevel()
    result.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, kind in zip(texts, kinds) if kind == CONTROL])
    result.add_tokens([AddedToken(t, normalized=False) for t, kind in zip(texts, kinds) if kind == USER_DEFINED])
    return result


def merges_by_score(vocabulary: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """What transformers derives from a SentencePiece vocabulary."""
    merges = []
    for text, i in vocabulary.items():
        pairs = [(text[:at], text[at:]) for at in range(1, len(text)) if text[:at] in vocabulary and text[at:] in vocabulary]
        merges += [(*pair, scores[i]) for pair in sorted(pairs, key=lambda p: (vocabulary[p[0]], vocabulary[p[1]]))]
    merges.sort(key=lambda m: (m[2], len(m[0]), len(m[1])), reverse=True)
    return [(left, right) for left, right, _ in merges]


def sentencepiece(value) -> Tokenizer:
    kinds = value("token_type")
    texts = [t.replace(" ", "\u2581") if kind == USER_DEFINED else t for t, kind in zip(value("tokens"), kinds)]
    scores = [0.0 if kind == USER_DEFINED else score for score, kind in zip(value("scores"), kinds)]  # as in the published merges
    vocabulary = {text: i for i, text in enumerate(texts)}
    result = Tokenizer(models.BPE(vocabulary, merges_by_score(vocabulary, scores), byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    result.normalizer = normalizers.Replace(" ", "\u2581")
    result.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    result.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, kind in zip(texts, kinds) if kind == CONTROL])
    result.add_tokens([AddedToken(t, normalized=False) for t, kind in zip(texts, kinds) if kind == USER_DEFINED])
    return result


def read_tokenizer(path: pathlib.Path) -> Tokenizer:
    reader = gguf.GGUFReader(str(path))
    value = lambda key: reader.fields["tokenizer.ggml." + key].contents()
    return byte_level(value) if value("model") == "gpt2" else sentencepiece(value)


def main() -> None:
    import xxhash  # only here: oracle.py uses read_tokenizer()

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--dump", type=pathlib.Path, help="also write each string and its ids, a line of JSON each, into this folder")
    options = parser.parse_args()
    hashes: dict[str, list[str]] = {}
    for name, file in MODELS.items():
        tokenizer = read_tokenizer(options.models / file)
        numbers = Numbers(2025)
        hashes[name] = []
        dump = open(options.dump / f"{name}.jsonl", "w") if options.dump else None
        for _ in range(CHUNKS):
            state = xxhash.xxh3_64()
            for _ in range(STRINGS):
                raw = random_bytes(numbers)
                ids = tokenizer.encode(raw.decode("utf-8", errors="replace"), add_special_tokens=False).ids
                state.update(struct.pack(f"<I{len(ids)}I", len(ids), *ids))
                if dump:
                    dump.write(json.dumps({"hex": raw.hex(), "ids": ids}) + "\n")
            hashes[name].append(state.hexdigest())
        print(name, "done", file=sys.stderr)
    path = options.output / "tokenizer_hashes.json"
    path.write_text(json.dumps(hashes, indent=0) + "\n")
    print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
