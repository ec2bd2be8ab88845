"""best_subspan_em of the `blockattn` command itself, on the held-out questions and prompts of evaluate.py, or on another file's.

    python engine_eval.py BLOCKATTN MODEL.gguf QUESTIONS.jsonl.gz --adapter ADAPTER.gguf --limit 200 --rows rows.jsonl

One process a prompt. Answers are appended to --rows as they come; a second call goes on from there.
"""
from __future__ import annotations

import argparse
import json
import pathlib
import shlex
import subprocess

import data
import evaluate
import prompts as p


def answer(args: argparse.Namespace, mode: str, question: data.Question, passages: list[data.Passage]) -> str:
    blocks = [p.SYSTEM, *(f"{x.title}\n{x.text}" for x in passages), question.question]
    command = [*shlex.split(args.command), "run", "-m", str(args.model), "--lora", str(args.adapter or "none"), "--chat", "--blocks", "-"]
    command += ["--mode", mode, "-n", "32", "-t", str(args.threads), "--precision", args.precision, "--json"]
    done = subprocess.run(command, input=json.dumps({"blocks": blocks}), capture_output=True, text=True)
    if done.returncode != 0:
        raise SystemExit(f"[engine_eval] {shlex.join(command)}: status {done.returncode}: {done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])["text"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("command", help="the blockattn command, with a wrapper's words before it if need be")
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("questions", type=pathlib.Path)
    parser.add_argument("--adapter", type=pathlib.Path)
    parser.add_argument("--rows", type=pathlib.Path, required=True)
    parser.add_argument("--modes", nargs="+", choices=["full", "block"], default=["full", "block"])
    parser.add_argument("--passages", type=int, default=10)
    parser.add_argument("--all", action="store_true", help="ask all questions of the file: it isn't the one that was trained on")
    parser.add_argument("--limit", type=int)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--precision", choices=["fast", "exact"], default="fast")
    args = parser.parse_args()
    everything = data.load(args.questions)
    asked = (everything if args.all else data.split(everything)[2])[: args.limit]
    passages = evaluate.questions_with_passages(asked, data.Distractors([q.gold for q in everything]), args.passages, seed=1)
    rows = [json.loads(line) for line in args.rows.read_text(encoding="utf-8").splitlines()] if args.rows.exists() else []
    with open(args.rows, "a", encoding="utf-8") as out:
        for q, chosen in list(zip(asked, passages))[len(rows) :]:
            answers = {mode: answer(args, mode, q, chosen) for mode in args.modes}
            rows.append({"question": q.question, "answers": answers, "hits": {m: float(data.best_subspan_em(a, q.answers)) for m, a in answers.items()}})
            print(json.dumps(rows[-1], ensure_ascii=False), file=out, flush=True)
    hits = {mode: [row["hits"][mode] for row in rows] for mode in args.modes}
    result = {"n": len(rows), **{mode: evaluate.with_interval(values) for mode, values in hits.items()}}
    if {"full", "block"} <= set(args.modes):
        result["block - full"] = evaluate.with_interval([b - f for f, b in zip(hits["full"], hits["block"])])
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
