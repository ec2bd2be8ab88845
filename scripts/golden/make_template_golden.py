"""Writes tests/golden/templates.json and tests/golden/jinja.jsonl: what Python's jinja2 makes of the same templates.

templates.json: six conversations, the variables that every rendering gets, and for each template of llama.cpp's collection and each
conversation the XXH3-128 of the text that jinja2 renders, or null where it raises an error. The templates themselves aren't committed:
scripts/fetch-vectors puts them into the cache folder. The environment is the one that transformers sets up for chat templates.
jinja.jsonl: small templates of our own, one line each: {"template", "variables", "text"}, or {"template", "variables", "error"}.

    python make_template_golden.py TEMPLATES_FOLDER ../../tests/golden [--texts FOLDER]

--texts also writes the rendered texts, to look at where another implementation differs.
"""
from __future__ import annotations

import argparse
import datetime
import json
import pathlib

import jinja2
import jinja2.ext
import jinja2.sandbox
import xxhash

from jinja_cases import CASES, VARIABLES

NOW = datetime.datetime(2025, 3, 9, 14, 5, 7)


class Generation(jinja2.ext.Extension):
    """{% generation %} as transformers has it: its body, called as a macro."""

    tags = {"generation"}

    def parse(self, parser: jinja2.parser.Parser) -> jinja2.nodes.CallBlock:
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_render"), [], [], body).set_lineno(line)

    @staticmethod
    def _render(caller: jinja2.runtime.Macro) -> str:
        return caller()


def environment() -> jinja2.Environment:
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    result = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    result.filters["tojson"] = tojson
    result.globals["raise_exception"] = raise_exception
    result.globals["strftime_now"] = NOW.strftime
    return result


def conversations() -> list[dict]:
    """Variables of six renderings: no system message, a system message, many turns, tools, documents, many turns and tools without a system message."""
    user = {"role": "user", "content": "  When does the ferry to Sandholm leave?\n"}
    system = {"role": "system", "content": "Answer in one sentence, “politely”."}
    reply = {"role": "assistant", "content": "It leaves at 9:40."}
    weather = {"type": "function", "function": {
        "name": "get_weather", "description": "The weather at a place.",
        "parameters": {"type": "object", "properties": {
            "place": {"type": "string", "description": "Town & country, e.g. <Sandholm>"},
            "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
            "days": {"type": "array", "items": {"type": "integer"}}}, "required": ["place"]}}}
    clock = {"type": "function", "function": {"name": "clock", "description": "The time of day.", "parameters": {"type": "object", "properties": {}}}}
    call = {"role": "assistant", "content": "", "tool_calls": [{"id": "call00001", "type": "function", "function": {
        "name": "get_weather", "arguments": {"place": "Sandholm", "days": [1, 2], "deep": {"x": None, "y": 1.5, "ü": True}}}}]}
    answer = {"role": "tool", "tool_call_id": "call00001", "name": "get_weather", "content": "{\"sky\": \"clear\"}"}
    documents = [{"title": "Ferries", "text": "The ferry to Sandholm leaves at 9:40.", "content": "The ferry to Sandholm leaves at 9:40.", "doc_id": 1},
                 {"title": "Buses", "text": "No bus goes to Sandholm.\n", "content": "No bus goes to Sandholm.\n", "doc_id": 2}]
    thought = {"role": "assistant", "content": "<think>\nHmm.\n</think>\n\nTwo.", "reasoning_content": "Hmm."}
    return [
        {"messages": [user], "add_generation_prompt": True},
        {"messages": [system, user], "add_generation_prompt": True},
        {"messages": [system, user, reply, {"role": "user", "content": "And <|im_end|> back?"}, thought, {"role": "user", "content": "Danke – schön 🙂"}, reply],
         "add_generation_prompt": False},
        {"messages": [system, user, call, answer, reply, {"role": "user", "content": "And tomorrow?"}], "tools": [weather, clock], "add_generation_prompt": True},
        {"messages": [system, user], "documents": documents, "add_generation_prompt": True},
        {"messages": [user, reply, {"role": "user", "content": "Danke – schön 🙂"}], "tools": [clock, weather], "documents": [], "add_generation_prompt": True},
    ]


def render(env: jinja2.Environment, source: str, variables: dict) -> str | None:
    try:
        return env.from_string(source).render(**variables)
    except Exception as error:  # noqa: BLE001: any error is an error
        print(f"    {type(error).__name__}: {str(error)[:150]}")
        return None


def make_templates(folder: pathlib.Path, texts: pathlib.Path | None) -> dict:
    env = environment()
    variables = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>", "unk_token": "<unk>"}
    talks = conversations()
    result: dict = {"jinja2": jinja2.__version__, "now": NOW.isoformat(), "variables": variables, "conversations": talks, "templates": {}}
    for path in sorted(folder.glob("*.jinja")):
        print(path.name)
        hashes = []
        for number, talk in enumerate(talks):
            full = {"tools": None, "documents": None, **variables, **talk}
            text = render(env, path.read_text(), full)
            hashes.append(None if text is None else xxhash.xxh3_128_hexdigest(text.encode()))
            if texts is not None and text is not None:
                (texts / f"{path.stem}.{number}.txt").write_text(text)
        result["templates"][path.name] = hashes
    return result


def make_cases() -> list[dict]:
    env = environment()
    rows = []
    for source in CASES:
        row: dict = {"template": source}
        try:
            row["text"] = env.from_string(source).render(**VARIABLES)
        except Exception as error:  # noqa: BLE001
            row["error"] = type(error).__name__
        rows.append(row)
    return rows


def write_templates(path: pathlib.Path, data: dict) -> None:
    templates = data.pop("templates")
    lines = [f" {json.dumps(name)}: {json.dumps(hashes)}" for name, hashes in templates.items()]
    path.write_text(json.dumps(data, ensure_ascii=False)[:-1] + ', "templates": {\n' + ",\n".join(lines) + "\n}}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("templates", type=pathlib.Path)
    parser.add_argument("output", type=pathlib.Path)
    parser.add_argument("--texts", type=pathlib.Path)
    options = parser.parse_args()
    write_templates(options.output / "templates.json", make_templates(options.templates, options.texts))
    rows = [{"variables": VARIABLES}] + make_cases()
    (options.output / "jinja.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    print(f"{len(rows) - 1} small templates, {sum('error' in row for row in rows)} of them errors")


if __name__ == "__main__":
    main()
