"""Writes tests/golden/tokenizer_smollm2.jsonl and tests/golden/chat_template.jsonl: what Hugging Face makes of the same input.

Tokenizer: the `tokenizers` package, fed with the GGUF file's own vocabulary and merges and the pre-tokenizers of SmolLM2.
One line a case: {"text": ..., "ids": [...]}; special tokens in the text are recognised.
Chat templates: transformers' own Jinja environment. One line a case: {"template", "messages", "open_answer", "text"}; the first
template is the file's own, under the name "" (the test takes it from the model).

    python make_tokenizer_golden.py MODEL.gguf ../../tests/golden
"""
from __future__ import annotations

import argparse
import json
import pathlib
import random

import gguf
import tokenizers
from tokenizers import decoders, models, pre_tokenizers
from transformers.utils.chat_template_utils import render_jinja_template

CONTROL = 3


def read_tokenizer(reader: gguf.GGUFReader) -> tokenizers.Tokenizer:
    """SmolLM2's tokenizer: each digit alone, then byte-level BPE with the GPT-2 pattern; no normaliser, no prefix space."""
    value = lambda key: reader.fields["tokenizer.ggml." + key].contents()
    if value("pre") != "smollm":
        raise SystemExit(f"[golden] pre-tokenizer '{value('pre')}' isn't 'smollm'")
    texts, kinds = value("tokens"), value("token_type")
    merges = [tuple(merge.split(" ")) for merge in value("merges")]
    result = tokenizers.Tokenizer(models.BPE({text: i for i, text in enumerate(texts)}, merges))
    result.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    result.decoder = decoders.ByteLevel()
    special = [tokenizers.AddedToken(t, special=True, normalized=False) for t, kind in zip(texts, kinds) if kind == CONTROL]
    result.add_special_tokens(special)
    return result


def written_texts() -> list[str]:
    """Texts of our own, chosen for what they do to a tokenizer."""
    return [
        "", " ", "  ", "   ", "\n", "\n\n", "\n\n\n", "\t", "\t\t \n \n", " \n", "\r\n", "\r\n\r\n ", "a", " a", "  a", "\na", "a ", "a  ", "a\n", "a \n b",
        "Hello world", " Hello, world!", "Hello  world", "Hello   world   ", "hello\u00a0world", "tab\tand\ttab", "line one\nline two\n\nline four",
        "0", "7", "42", "1234567890", "3.14159", "1,000,000.50", "12a34b", " 5", "  5", "   55   5", "\n5", " \n 5", "a5", "5a", "5 a", "x²y³", "½ cup", "Ⅻ hours", "٣٤٥", "१२३", "一二三",
        "I'm you're he'll she'd they've it's don't", "I'M YOU'RE HE'LL SHE'D", "'s 's's '", "'tis the season", "rock'n'roll", "o’clock it’s", "''''", "' s", "'re5're",
        "The ferry leaves at 07:45 from pier 3; bring 2 tickets (and a coat).", "A lighthouse keeper climbs 199 steps every evening, rain or shine.",
        "e-mail: someone@example.org, https://example.org/a/b?c=d&e=f#g", "C:\\Users\\name\\file.txt", "$5.00 + €4,50 = ¥999 £1", "100% (sure)...!!!???", "-----", "=====", "_____ ****", "#include <vector>", "~!@#$%^&*()_+`-={}|[]\\:\";'<>?,./",
        "def area(r):\n    return 3.14159 * r ** 2\n\nprint(area(10))\n", "int main() {\n\treturn 0;  // done\n}\n", "for (auto& [key, value] : map) { total += value; }",
        "SELECT name, COUNT(*) FROM birds WHERE wingspan > 120 GROUP BY name;", "{\"key\": [1, 2, {\"inner\": null}], \"t\": true}", "<div class=\"box\"><p>text</p></div>", "if x==1:\n        y=2\n    \n",
        "# Title\n\n- item one\n- item two\n\n```sh\nls -la\n```\n", "| a | b |\n|---|---|\n| 1 | 2 |\n", "camelCaseIdentifier snake_case_identifier SCREAMING_CASE kebab-case",
        "naïve café Zürich Ångström œuvre", "cafe\u0301 nai\u0308ve", "ÀÈÌÒÙ àèìòù", "Straße GRÜßEN", "Łódź, Kraków i Gdańsk", "İstanbul ığüşöç", "Việt Nam đẹp lắm", "Ελληνικά γράμματα", "Привет, как дела?", "Бързата лисица",
        "今日は天気がいいですね。", "山田さんは東京に行きました", "ひらがなカタカナ漢字", "ｆｕｌｌｗｉｄｔｈ　１２３", "你好，世界！这是一个测试。", "繁體中文與简体中文", "안녕하세요 세계", "한국어 띄어쓰기", "مرحبا بالعالم", "اَلْعَرَبِيَّةُ", "שלום עולם", "नमस्ते दुनिया", "สวัสดีชาวโลก", "ជំរាបសួរ", "ዓለም ሰላም", "გამარჯობა", "Բարեւ աշխարհ", "ᓀᐦᐃᔭᐍᐏᐣ", "ᚠᛇᚻ᛫ᛒᛦᚦ",
        "🙂", " 🙂🙂 🎉", "👩‍👩‍👧‍👦 family", "🏳️‍🌈 flag", "🇫🇷🇩🇪", "👍🏽 ok", "☃️ ❤️ ✈", "🦙.cpp", "𝔘𝔫𝔦𝔠𝔬𝔡𝔢 𝟘𝟙𝟚", "𓀀𓁐", "𠜎𠜱𠝹", "\U000e0041\U000e007f", "\U0010fffd", "\U000f0000", "\U00050000",
        "\u200b", "a\u200bb", "\ufeffstart", "a\u00adb", "\u2028\u2029", "a\u2003b\u3000c", "\u180e\u180e a", "\u0085\u0085a", "\u001f\u001ea", "\x00", "a\x00b\x00\x00", "\x01\x02\x03\x04\x05\x06\x07\x08", "\x0b\x0c \x1b[0m", "\x7f", "\u0080\u009f", "\ufffd\ufffe\uffff", "\u202eabc\u202c",
        "<|im_start|>user\nHi<|im_end|>\n", "<|endoftext|>", "<|im_start|><|im_end|>", "a<|im_end|>b <|im_end|> c", "<|im_start", "<|im_start|", "<|im_end|>>", "<<|im_end|>", "<repo_name>x<file_sep>y", "<reponame><filename>", "  <|im_end|>  ", "5<|im_end|>5", "|im_end|>", "<|IM_END|>",
        "a" * 100, "ab" * 80, " " * 64, " " * 65 + "x", "\n" * 40, "=" * 130, "-" * 63 + ">", "0" * 50, "é" * 40, "。" * 30, "🙂" * 20, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaab", "supercalifragilisticexpialidocious" * 2, "Donaudampfschifffahrtsgesellschaftskapitän", "pneumonoultramicroscopicsilicovolcanoconiosis", "the" * 30, "\u0000" * 50,
        "MiXeD cAsE wOrDs AnD 1n7ern3t sp34k", "A.B.C. U.S.A. Ph.D. e.g. i.e.", "well-known, so-called; half—dash – and … dots", "“quoted” ‘single’ «guillemets» „low“",
    ]


def random_text(rng: random.Random) -> str:
    """Characters of all planes, with the kinds that matter to a pre-tokenizer drawn often."""
    pools = [
        lambda: chr(rng.randrange(0x20, 0x7F)), lambda: rng.choice(" \n\t\r  "), lambda: rng.choice("0123456789"), lambda: rng.choice("'s't're've'm'll'd"),
        lambda: rng.choice([" the", " and", "ing", "tion", " of", "Hello", "'s", "'ll", "  ", "\n\n"]), lambda: chr(rng.randrange(0x00, 0x20)), lambda: chr(rng.randrange(0x80, 0x250)),
        lambda: chr(rng.randrange(0x370, 0x700)), lambda: chr(rng.randrange(0x900, 0xE00)), lambda: chr(rng.randrange(0x2000, 0x2800)), lambda: chr(rng.randrange(0x3000, 0xA000)),
        lambda: chr(rng.randrange(0xAC00, 0xD7A4)), lambda: chr(rng.randrange(0xF900, 0x10000)), lambda: chr(rng.randrange(0x1F300, 0x1FB00)), lambda: chr(rng.randrange(0x10000, 0x110000)),
        lambda: rng.choice(["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|", "|>", "<file_sep>"]), lambda: rng.choice(["²", "½", "Ⅷ", "٣", "௧", "〇", "\u3000", "\u00a0", "\u0301", "\u200d"]),
    ]
    chosen = rng.sample(pools, rng.randrange(1, 7))
    return "".join(rng.choice(chosen)() * rng.choice([1, 1, 1, 1, 2, 5]) for _ in range(rng.randrange(1, 40)))


def template_cases(own: str) -> list[dict]:
    """Forms of ChatML that the library reads, and conversations that take every branch."""
    body = "{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}{% endfor %}"
    end = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    templates = [
        "",
        "{% for message in messages %}" + body + end,
        "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}{% for message in messages %}" + body + end,
        "{%- for message in messages -%}\n    {{- \"<|im_start|>\" + message.role + \"\\n\" + message.content + \"<|im_end|>\\n\" -}}\n{%- endfor -%}\n{%- if add_generation_prompt -%}\n    {{- '<|im_start|>assistant\\n' -}}\n{%- endif -%}\n",
        "{% for message in messages %}\n<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}\n{% if add_generation_prompt %}\n<|im_start|>assistant\n{{ '' }}{% endif %}\n".replace("\n{{ '' }}", "{{ '\\n' }}"),
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nIt\\'s a \"short\" reply \\\\ or none.<|im_end|>\\n' }}{% endif %}{% for message in messages %}" + body + end,
        "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\nAnswer in one word<|im_end|>\n' }}{% endif %}" + body + end,
        "{# ChatML #}\n{% for message in messages %}\n  {% if loop.first and messages[0]['role'] != 'system' %}\n  {{- '<|im_start|>system\\n\\n<|im_end|>\\n' }}\n  {%- endif %}\n  {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}\n{%- endfor %}\n{%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}",
    ]
    system, user, reply = ({"role": "system", "content": "Be brief.\n"}, {"role": "user", "content": "  What's {{ this }}? "}, {"role": "assistant", "content": "A “test”."})
    talks = [[user], [system, user], [user, reply, user], [system, user, reply, {"role": "user", "content": ""}], [reply], [user, system]]
    cases = []
    for template in templates:
        for messages in talks:
            for open_answer in (True, False):
                rendered, _ = render_jinja_template([messages], chat_template=template or own, add_generation_prompt=open_answer)
                cases.append({"template": template, "messages": messages, "open_answer": open_answer, "text": rendered[0]})
    return cases


def write_lines(path: pathlib.Path, rows: list[dict]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{path}: {len(rows)} cases, {path.stat().st_size} bytes")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    options = parser.parse_args()
    reader = gguf.GGUFReader(str(options.model))
    tokenizer = read_tokenizer(reader)
    rng = random.Random(20250101)
    texts = written_texts() + [random_text(rng) for _ in range(60)]
    rows = [{"text": text, "ids": tokenizer.encode(text, add_special_tokens=False).ids} for text in texts]
    write_lines(options.output / "tokenizer_smollm2.jsonl", rows)
    write_lines(options.output / "chat_template.jsonl", template_cases(reader.fields["tokenizer.chat_template"].contents()))


if __name__ == "__main__":
    main()
