"""Trains a LoRA for block attention, exports it as GGUF and measures what was exported. One command, one GPU, fixed seed.

    python train.py MODEL.gguf QUESTIONS.jsonl.gz --adapter ADAPTER.gguf --results results.json

Each sample is run in both modes, full and block; the mode is nothing but the mask. The loss is the cross entropy of the answer in each mode, plus
(self-distillation) the KL divergence of block mode from the same model's full mode over the final block and the answer: no label is needed for it,
plus (pointing.py) how far attention is from finding the gold passage.
Half of the samples are the file's questions, half are made from the passages' sentences (templates.py). Distractors are drawn anew in each epoch, and
in a share of the samples the answer is replaced, in the passage too, by another question's: what is in the prompt counts, not what was memorised.
"""
from __future__ import annotations

import argparse
import dataclasses
import json
import math
import pathlib
import platform
import random
import re
import time

import torch
import torch.nn.functional as F
import transformers

import data
import evaluate
import export_gguf
import lora
import pointing
import prompts as p
import templates


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("questions", type=pathlib.Path)
    parser.add_argument("--adapter", type=pathlib.Path, help="where to write the adapter (LoRA only)")
    parser.add_argument("--results", type=pathlib.Path, required=True, help="JSON file; this run's part is added under --label")
    parser.add_argument("--label", default="adapter")
    parser.add_argument("--method", choices=["lora", "full"], default="lora", help="full: all weights, for comparison")
    parser.add_argument("--modes", nargs="+", choices=["full", "block"], default=["full", "block"])
    parser.add_argument("--epochs", type=int, default=4, help="passes over the questions")
    parser.add_argument("--templates", type=float, default=1.0, help="template questions for each question")
    parser.add_argument("--substitute", type=float, default=0.4, help="share of the questions whose answer is replaced, in the passage too")
    parser.add_argument("--unlabelled", type=pathlib.Path, help='JSON Lines of {"passages": [{"title", "text"}], "question"} for self-distillation alone')
    parser.add_argument("--distil", type=float, default=1.0, help="weight of the KL divergence of block from full mode")
    parser.add_argument("--point", type=float, default=0.2, help="weight of attention's finding the gold passage")
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--alpha", type=float, default=64)
    parser.add_argument("--dropout", type=float, default=0.0)
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--batch", type=int, default=16, help="samples in a step")
    parser.add_argument("--micro", type=int, default=16, help="samples at once; a step's gradient is summed over parts of this size")
    parser.add_argument("--title", help="name in the adapter's metadata (default: the checkpoint's name)")
    parser.add_argument("--checks", type=int, default=4, help="how often the development split is asked in the second half; the best state is kept")
    parser.add_argument("--max-seconds", type=float, default=1e9, help="the schedule is shortened to end by then")
    parser.add_argument("--limit", type=int, help="use so few questions of each split (for a smoke test)")
    parser.add_argument("--base", action="store_true", help="measure the unadapted model too")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--eval-batch", type=int, default=32)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser.parse_args()


@dataclasses.dataclass
class Corpus:
    """Draws prompts for training: k passages, 3 to 10, the gold one at a random place."""

    questions: list[data.Question]
    builder: p.PromptBuilder
    rng: random.Random
    substituted: float = 0.0
    unlabelled: list[p.Prompt] = dataclasses.field(default_factory=list)

    def __post_init__(self):
        self.pool = data.Distractors([q.gold for q in self.questions])
        self.kinds: dict[tuple, list[str]] = {}
        for q in self.questions:
            self.kinds.setdefault(kind_of(q), []).append(q.target())

    def prompt(self, q: data.Question) -> p.Prompt:
        others = self.rng.randint(3, 10) - 1
        real = q.replaces or q
        near = self.pool.nearest(q.question, q.answers + real.answers, real.gold, 30)
        chosen = near[:others] if self.rng.random() < 0.5 else self.rng.sample(near, min(others, len(near)))
        self.rng.shuffle(chosen)
        place = self.rng.randint(0, len(chosen))
        chosen.insert(place, q.gold)
        system = p.SYSTEM if self.rng.random() < 0.5 else self.rng.choice(p.SYSTEMS)
        prompt = self.builder.rag(system, chosen, self.spelled(q.question), q.target())
        prompt.gold = 1 + place
        return prompt

    def spelled(self, question: str) -> str:
        """NQ's questions are in lower case without a question mark; half of the time they are written as people write them."""
        if question[0].islower() and self.rng.random() < 0.5:
            question = question[0].upper() + question[1:]
            return question if question.endswith("?") else question + "?"
        return question

    def replaced(self, q: data.Question) -> data.Question:
        """The question with another question's answer of the same kind in the passage; unchanged if the answer isn't in its text word for word."""
        old = q.target()
        pattern = re.compile(r"(?<!\w)" + re.escape(old) + r"(?!\w)", re.IGNORECASE)
        if not pattern.search(q.gold.text):
            return q
        for _ in range(5):
            new = self.rng.choice(self.kinds[kind_of(q)])
            if data.normalised(new) not in data.normalised(q.gold.text):
                gold = data.Passage(pattern.sub(lambda _: new, q.gold.title), pattern.sub(lambda _: new, q.gold.text))
                return data.Question(q.question, (new,), gold, replaces=q)
        return q

    def epoch(self, templates_each: float, batch: int) -> list[list[p.Prompt]]:
        """Batches of prompts of similar length, in random order."""
        asked = [self.replaced(q) if self.rng.random() < self.substituted else q for q in self.questions]
        wanted = round(templates_each * len(asked))
        sources = self.rng.sample(self.questions, len(asked)) * (wanted // max(1, len(asked)) + 1)
        asked += [made for q in sources[:wanted] if (made := templates.make(q.gold, self.rng))]
        items = [self.prompt(q) for q in asked] + self.unlabelled
        self.rng.shuffle(items)
        group = batch * 8
        ordered = [i for start in range(0, len(items), group) for i in sorted(items[start : start + group], key=len)]
        batches = [ordered[i : i + batch] for i in range(0, len(ordered) - batch + 1, batch)]
        self.rng.shuffle(batches)
        return batches


def kind_of(q: data.Question) -> tuple:
    """Answers of one kind may stand for each other: the question's word, words (1, 2, 3 or more), digits (none, some, only), capital or not."""
    answer, asked = q.target(), set(q.question.lower().split())
    digits = sum(c.isdigit() for c in answer)
    word = next((w for w in ("who", "when", "where", "how", "why", "which", "what") if w in asked), "")
    return word, min(3, len(answer.split())), (digits > 0) + (digits == len(answer)), answer[:1].isupper()


def read_unlabelled(path: pathlib.Path, builder: p.PromptBuilder) -> list[p.Prompt]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [builder.rag(p.SYSTEM, [data.Passage(x["title"], x["text"]) for x in row["passages"]], row["question"]) for row in rows]


def final_positions(batch: p.Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """(row, column) of all positions of the final block and the answer; and which of them predict a token of the answer."""
    rows, columns = (batch.block == batch.final[:, None]).nonzero(as_tuple=True)
    return rows, columns, (columns + 1 >= batch.answer[rows]) & (columns + 1 < batch.lengths[rows])


def step_losses(model, batch: p.Batch, modes: list[str], distil: float, point: float, watcher: pointing.Watcher, share: float = 1.0) -> dict[str, torch.Tensor]:
    """Forward and backward in each mode, the gradient scaled by `share`. Each sample's answer has the same weight, whatever its length."""
    rows, columns, is_answer = final_positions(batch)
    targets = batch.ids[rows[is_answer], columns[is_answer] + 1]
    owner = rows[is_answer]
    weight = 1.0 / torch.bincount(owner, minlength=len(batch.ids)).clamp(min=1)[owner] / len(batch.ids)
    losses, teacher = {}, None
    for mode in modes:
        watcher.batch = batch if point > 0 and bool((batch.gold >= 0).any()) else None
        hidden = p.hidden_states(model, batch, mode)[rows, columns]
        logits = model.lm_head(hidden).float()
        loss = (F.cross_entropy(logits[is_answer], targets, reduction="none") * weight).sum()
        losses[mode] = loss.detach()
        if watcher.batch is not None:
            found = watcher.take()
            losses[mode + "_point"] = found.detach()
            loss = loss + point * found
            watcher.batch = None
        if mode == "block" and teacher is not None:
            kl = F.kl_div(F.log_softmax(logits, -1), teacher, log_target=True, reduction="none").sum(-1).mean()
            losses["kl"] = kl.detach()
            loss = loss + distil * kl
        elif distil > 0 and "block" in modes:
            teacher = F.log_softmax(logits.detach(), -1)
        (share * loss).backward()
    return losses


def rate(progress: float) -> float:
    """Share of the learning rate: 5 % warm-up, then a cosine to 10 %."""
    if progress < 0.05:
        return max(progress, 0.001) / 0.05
    return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * min(1.0, (progress - 0.05) / 0.95)))


class Keeper:
    """Asks the development split and keeps the best state of the trained parameters."""

    def __init__(self, model, trained: list[torch.nn.Parameter], builder, questions, passages, args):
        self.model, self.trained, self.args = model, trained, args
        self.ask = builder, questions, passages
        self.best, self.state, self.history = -1.0, None, []

    def check(self, step: int) -> None:
        self.model.eval()
        with torch.autocast(self.args.device, torch.bfloat16, enabled=self.args.method == "full"):
            found = evaluate.measure(self.model, *self.ask, modes=self.args.modes, batch_size=self.args.eval_batch, max_tokens=20)
        self.model.train()
        values = {m: found[m]["value"] for m in self.args.modes}
        self.history.append({"step": step, **values})
        print(json.dumps({"dev": self.history[-1]}), flush=True)
        if (score := sum(values.values())) >= self.best:
            self.best, self.state = score, [t.detach().clone() for t in self.trained]

    def restore(self) -> None:
        with torch.no_grad():
            for t, kept in zip(self.trained, self.state):
                t.copy_(kept)


def train(model, trained, batches: list[list[p.Prompt]], keeper: Keeper, watcher: pointing.Watcher, args) -> dict:
    """Runs all batches; the summary has the mean losses of each twentieth."""
    optimizer = torch.optim.AdamW(trained, lr=args.lr, betas=(0.9, 0.95), weight_decay=0.01, fused=args.device == "cuda")
    started, curve, window = time.monotonic(), [], []
    next_check, step, progress, asking = 1, 0, 0.0, 0.0
    model.train()
    for step, items in enumerate(batches, 1):
        progress = max(step / len(batches), (time.monotonic() - started) / args.max_seconds)
        for g in optimizer.param_groups:
            g["lr"] = args.lr * rate(progress)
        with torch.autocast(args.device, torch.bfloat16, enabled=args.method == "full"):
            losses: dict = {}
            for first in range(0, len(items), args.micro):
                part = items[first : first + args.micro]
                share = len(part) / len(items)
                for name, value in step_losses(model, p.collate(part, args.device), args.modes, args.distil, args.point, watcher, share).items():
                    losses[name] = losses.get(name, 0) + share * value
        norm = torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        window.append({**losses, "norm": norm})
        if len(window) >= max(1, len(batches) // 20):
            curve.append({"step": step, **{k: round(float(sum(w[k] for w in window)) / len(window), 4) for k in window[0]}})
            curve[-1]["seconds"] = round(time.monotonic() - started, 1)
            print(json.dumps(curve[-1]), flush=True)
            if not math.isfinite(sum(v for v in curve[-1].values())):
                raise SystemExit("[train] the loss isn't finite")
            window = []
        if args.checks and progress >= 0.5 + 0.5 * next_check / args.checks - 1e-9:
            began = time.monotonic()
            keeper.check(step)
            asking += time.monotonic() - began
            next_check += 1
        if progress >= 1:
            break
    seconds = time.monotonic() - started
    if keeper.state is not None:
        keeper.restore()
    return {"steps": step, "steps_planned": len(batches), "seconds": round(seconds, 1), "seconds_dev": round(asking, 1), "curve": curve, "dev": keeper.history}


def add_result(path: pathlib.Path, label: str, content: dict) -> None:
    results = json.loads(path.read_text()) if path.exists() else {}
    results[label] = content
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(results, indent=1) + "\n")


def environment(device: str) -> dict:
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "device": torch.cuda.get_device_name() if device == "cuda" else "CPU",
    }


def main() -> None:
    args = parse_arguments()
    random.seed(args.seed)
    torch.manual_seed(args.seed)
    torch.backends.cuda.enable_cudnn_sdp(False)  # with Boolean masks its gradients were NaN for Qwen2.5 in bfloat16
    started = time.monotonic()
    everything = data.load(args.questions)
    parts = [part[: args.limit] for part in data.split(everything)]
    training, dev, held_out = parts
    model, tokenizer = evaluate.load_base(args.model, args.device)
    builder = p.PromptBuilder(tokenizer)
    unlabelled = read_unlabelled(args.unlabelled, builder) if args.unlabelled else []
    corpus = Corpus(training, builder, random.Random(args.seed), args.substitute, unlabelled)
    batches = [b for _ in range(args.epochs) for b in corpus.epoch(args.templates, args.batch)]
    dev_passages = evaluate.questions_with_passages(dev, data.Distractors([q.gold for q in training + dev]), 10, seed=2)
    pool = data.Distractors([q.gold for q in everything])
    passages = evaluate.questions_with_passages(held_out, pool, 10, seed=1)
    print(json.dumps({"prepared": round(time.monotonic() - started, 1), "batches": len(batches), "split": [len(x) for x in parts]}), flush=True)

    all_modes = ("full", "block", "local")
    if args.base:
        base = evaluate.measure(model, builder, held_out, passages, all_modes, args.eval_batch)
        add_result(args.results, "base", evaluate.figures(base))
        print(json.dumps({"base": evaluate.figures(base)}), flush=True)

    modules = {}
    if args.method == "lora":
        if args.device == "cuda":
            model.to(torch.bfloat16)
            model.model.rotary_emb = type(model.model.rotary_emb)(model.config).to(args.device)  # its frequencies stay float32
        modules = lora.add_lora(model, args.rank, args.alpha, args.dropout)
    trained = [t for t in model.parameters() if t.requires_grad]
    keeper = Keeper(model, trained, builder, dev, dev_passages, args)
    watcher = pointing.Watcher(model.config.num_hidden_layers)
    watcher.install(model)
    summary = train(model, trained, batches, keeper, watcher, args)
    if args.device == "cuda":
        summary["peak_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 1)
    model.eval()
    if args.method == "lora" and args.adapter:
        export_gguf.save(args.adapter, modules, model.config, args.alpha, f"{args.title or args.model.stem} block attention")
        model, _ = evaluate.load_base(args.model, args.device)
        export_gguf.attach(model, args.adapter)  # what is measured is the file
        model.eval()
    measured = evaluate.measure(model, builder, held_out, passages, all_modes, args.eval_batch)
    settings = {k: v for k, v in vars(args).items() if not isinstance(v, pathlib.Path) and k not in ("label", "base")}
    add_result(
        args.results,
        args.label,
        {
            "settings": settings,
            "environment": environment(args.device),
            "questions": dict(zip(("training", "development", "held_out"), map(len, parts))),
            "training": summary,
            "held_out": evaluate.figures(measured),
        },
    )
    print(json.dumps({args.label: evaluate.figures(measured)}), flush=True)


if __name__ == "__main__":
    main()
