"""Questions made from the passages' own sentences, so that the adapter isn't tied to one kind of question.

No model writes them: each kind is a pattern. They train what block attention makes hard, finding the one passage among many that matters.
"""
from __future__ import annotations

import random
import re

from data import Passage, Question

MONTHS = "January|February|March|April|May|June|July|August|September|October|November|December"
FACT = re.compile(rf"(?:\b\d{{1,2}} (?:{MONTHS})|\b(?:{MONTHS}) \d{{1,2}})?(?:, | )?\b\d[\d,.]*\d\b|(?<=[a-z,] )[A-Z][\w'’-]+(?: (?:of |the )?[A-Z][\w'’-]+){{0,3}}")
DEFINITION = re.compile(r"^((?:The |A |An )?[A-Z][^,.;()]{2,50}?) (is|was|are|were) ((?:a|an|the|one of) [^.;,]{10,120})[.;,]")
DEED = re.compile(
    r"^([A-Z][\w'’.-]+(?: [A-Z][\w'’.-]+){1,3}) ((?:won|wrote|played|plays|directed|produced|recorded|discovered|founded|led|created|designed|"
    r"sang|starred|became|invented|painted|built|released|signed|scored|hosted|performed|holds|has|had) [^.;]{12,140})[.;]"
)
PRONOUNS = ("It", "He", "She", "They", "This", "There", "These", "Those", "That", "We", "You", "In", "On", "At")


def sentences(text: str) -> list[str]:
    """Whole sentences of 8 to 40 words."""
    found = re.split(r"(?<=[.!?])\s+(?=[A-Z\"])", " ".join(text.split()))
    return [s for s in found if s[-1:] in ".!?" and 8 <= len(s.split()) <= 40]


def gap(sentence: str, rng: random.Random) -> tuple[str, str] | None:
    """One fact of the sentence replaced by a gap."""
    facts = [m for m in FACT.finditer(sentence) if len(m.group().strip(" ,.")) > 1]
    if not facts:
        return None
    fact = rng.choice(facts)
    answer = fact.group().strip(" ,.")
    holed = sentence[: fact.start()] + fact.group().replace(answer, "____") + sentence[fact.end() :]
    form = rng.choice(["Fill in the gap: {}", 'What stands in the gap of "{}"?', "Which words are missing? {}"])
    return form.format(holed), answer


def definition(sentence: str, rng: random.Random) -> tuple[str, str] | None:
    """What X is."""
    m = DEFINITION.match(sentence)
    if not m or m.group(1).split()[0] in PRONOUNS or len(m.group(1).split()) > 5:
        return None
    subject = m.group(1)
    subject = subject[0].lower() + subject[1:] if subject.startswith(("The ", "A ", "An ")) else subject
    return rng.choice([f"What {m.group(2)} {subject}?", f"Tell me what {subject} {m.group(2)}."]), m.group(3)


def deed(sentence: str, rng: random.Random) -> tuple[str, str] | None:
    """Who did it."""
    m = DEED.match(sentence)
    if not m or m.group(1).split()[0] in PRONOUNS:
        return None
    return f"Who {m.group(2)}?", m.group(1)


def rest(sentence: str, rng: random.Random) -> tuple[str, str] | None:
    """How a sentence goes on."""
    words = sentence.rstrip(".!?").split()
    cut = rng.randint(len(words) // 3, 2 * len(words) // 3)
    if len(words) - cut > 14:
        return None
    return rng.choice(["How does this sentence go on? {}", 'Finish the sentence: "{}"']).format(" ".join(words[:cut])), " ".join(words[cut:])


def where(sentence: str, title: str, rng: random.Random) -> tuple[str, str]:
    """Under which title it stands."""
    forms = ['What is the title of the passage that says "{}"?', "Under which title does this stand? {}", "What is this about? {}"]
    return rng.choice(forms).format(sentence), title


def make(passage: Passage, rng: random.Random) -> Question | None:
    """One question about a passage, or None if no pattern fits."""
    found = sentences(passage.text)
    rng.shuffle(found)
    kinds = [deed, definition, gap, gap, rest]
    rng.shuffle(kinds)
    if found and rng.random() < 0.1:
        question, answer = where(found[0], passage.title, rng)
        return Question(question, (answer,), passage)
    for kind in sorted(kinds[:3], key=lambda k: k not in (deed, definition)):  # the rarer kinds first
        for sentence in found:
            made = kind(sentence, rng)
            if made:
                return Question(made[0], (made[1],), passage)
    return None
