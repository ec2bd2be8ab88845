"""Questions, their split, distractors, and the measure.

A question set is JSON Lines (gzip or not): `question`, `answers` (list), `title` and `text` of the one passage that answers it.

Split. A question is held out if the first 8 hexadecimal digits of SHA-256(question in lower case, white space trimmed), read as a number, leave a
remainder below 22 when divided by 100. Held-out questions and their passages never occur in training, not as distractors either; the development
split (remainder 22 to 27) is left out of training too and chooses the checkpoint.

    python data.py QUESTIONS.jsonl.gz --held-out held_out.jsonl     # the held-out questions, for other tools
"""
from __future__ import annotations

import argparse
import collections
import dataclasses
import gzip
import hashlib
import json
import math
import pathlib
import re
import string

import numpy as np

HELD_OUT_BELOW, DEV_BELOW = 22, 28


@dataclasses.dataclass(frozen=True)
class Passage:
    title: str
    text: str


@dataclasses.dataclass(frozen=True)
class Question:
    question: str
    answers: tuple[str, ...]
    gold: Passage
    replaces: Question | None = None  # the real question, if the answer was exchanged for training

    def target(self) -> str:
        """What training wants to hear: the shortest answer, one that stands in the passage if there is one."""
        text = normalised(self.gold.title + " " + self.gold.text)
        return min(self.answers, key=lambda a: (normalised(a) not in text, len(a), a))


def load(path: pathlib.Path) -> list[Question]:
    """All questions of a file; names the line of a missing or empty field."""
    opened = gzip.open(path, "rt", encoding="utf-8") if str(path).endswith(".gz") else open(path, encoding="utf-8")
    result = []
    with opened as lines:
        for number, line in enumerate(lines, 1):
            row = json.loads(line)
            missing = [k for k in ("question", "answers", "title", "text") if not row.get(k)]
            if missing:
                raise SystemExit(f"[data] {path}, line {number}: no {', '.join(missing)}")
            result.append(Question(row["question"], tuple(row["answers"]), Passage(row["title"], row["text"])))
    return result


def bucket(question: str) -> int:
    """0..99, by the question's hash."""
    return int(hashlib.sha256(question.strip().lower().encode()).hexdigest()[:8], 16) % 100


def split(questions: list[Question]) -> tuple[list[Question], list[Question], list[Question]]:
    """(training, development, held out). A question that shares its passage with a held-out one is in none of the first two."""
    parts: tuple[list, list, list] = ([], [], [])
    for q in questions:
        b = bucket(q.question)
        parts[2 if b < HELD_OUT_BELOW else 1 if b < DEV_BELOW else 0].append(q)
    training, dev, held_out = parts
    kept_aside = {q.gold for q in held_out}
    return [q for q in training if q.gold not in kept_aside], [q for q in dev if q.gold not in kept_aside], held_out


def normalised(text: str) -> str:
    """Lower case; punctuation, articles and extra white space removed."""
    text = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def best_subspan_em(answer: str, gold: tuple[str, ...]) -> bool:
    """Whether any normalised gold answer is contained in the normalised answer."""
    text = normalised(answer)
    return any(normalised(g) in text for g in gold)


class Distractors:
    """BM25 (k1 = 1.2, b = 0.75) over distinct passages, title and text."""

    def __init__(self, passages: list[Passage]):
        self.passages = list(dict.fromkeys(passages))
        self.plain = [normalised(p.title + " " + p.text) for p in self.passages]
        counts = [collections.Counter(text.split()) for text in self.plain]
        lengths = np.array([sum(c.values()) for c in counts], dtype=np.float32)
        postings: dict[str, tuple[list[int], list[float]]] = {}
        for i, c in enumerate(counts):
            norm = 1.2 * (0.25 + 0.75 * lengths[i] / lengths.mean())
            for word, n in c.items():
                documents, weights = postings.setdefault(word, ([], []))
                documents.append(i)
                weights.append(2.2 * n / (n + norm))
        self.postings = {}
        for word, (documents, weights) in postings.items():
            idf = math.log(1 + (len(counts) - len(documents) + 0.5) / (len(documents) + 0.5))
            self.postings[word] = np.array(documents), np.array(weights, dtype=np.float32) * idf

    def nearest(self, query: str, answers: tuple[str, ...], gold: Passage, count: int) -> list[Passage]:
        """The `count` passages nearest to `query`, best first, without the gold one and without any that contains an answer."""
        scores = np.zeros(len(self.passages), dtype=np.float32)
        for word in set(normalised(query).split()):
            if word in self.postings:
                documents, weights = self.postings[word]
                scores[documents] += weights
        forbidden = [normalised(a) for a in answers]
        result: list[Passage] = []
        for i in np.argsort(-scores, kind="stable"):
            if len(result) == count:
                break
            if self.passages[i] != gold and not any(a in self.plain[i] for a in forbidden):
                result.append(self.passages[i])
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description="Writes the questions that training never sees.")
    parser.add_argument("questions", type=pathlib.Path)
    parser.add_argument("--held-out", type=pathlib.Path, required=True)
    args = parser.parse_args()
    held_out = split(load(args.questions))[2]
    with open(args.held_out, "w", encoding="utf-8") as out:
        for q in held_out:
            row = {"question": q.question, "answers": q.answers, "title": q.gold.title, "text": q.gold.text}
            out.write(json.dumps(row, ensure_ascii=False) + "\n")
    print(f"{len(held_out)} questions in {args.held_out}")


if __name__ == "__main__":
    main()
