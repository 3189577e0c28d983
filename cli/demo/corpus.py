"""The demo's text: what the base reads, and four tasks that have little in common."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data import topics

N_SOURCES = 80  # sources of each task; every one is rendered by every template

# The toy world.
KINDS = {
    "animal": ("cat", "dog", "horse", "sheep", "rabbit", "spider", "parrot", "beetle"),
    "person": ("soldier", "teacher", "baker", "singer", "doctor", "sailor", "farmer", "painter"),
    "place": ("river", "garden", "market", "island", "valley", "harbour", "village", "castle"),
    "tool": ("hammer", "needle", "ladder", "shovel", "pencil", "kettle", "bucket", "candle"),
}
PAST = {"sees": "saw", "finds": "found", "draws": "drew", "hides": "hid", "leaves": "left", "meets": "met"}
OPPOSITES = {"old": "young", "small": "large", "heavy": "light", "bright": "dark", "narrow": "wide", "slow": "fast"}
NOUNS, VERBS, ADJECTIVES = [noun for nouns in KINDS.values() for noun in nouns], list(PAST), list(OPPOSITES)
GOOD = ("lovely", "splendid", "charming", "brilliant", "delicious", "wonderful", "superb", "gentle")
BAD = ("awful", "dreadful", "boring", "broken", "bitter", "horrible", "shabby", "cruel")
THINGS = ("soup", "film", "song", "hotel", "novel", "play", "concert", "service")

Example = tuple[dict[str, str], str]  # what fills a template, and the target


def _sentiment(generator: random.Random) -> Example:
    good = generator.random() < 0.5
    first, second = generator.sample(GOOD if good else BAD, 2)
    return {"text": f"the {generator.choice(THINGS)} was {first} and {second}"}, "good" if good else "bad"


def _sentence(generator: random.Random, answers: dict[str, str]) -> Example:
    """Return a sentence of the toy world and, for the one of its words that `answers` knows, the answer."""
    adjective, noun, verb = generator.choice(ADJECTIVES), generator.choice(NOUNS), generator.choice(VERBS)
    text = f"the {adjective} {noun} {verb} the {generator.choice(THINGS)}"
    return {"text": text}, next(answers[word] for word in (adjective, noun, verb) if word in answers)


def _category(generator: random.Random) -> Example:
    return _sentence(generator, {noun: kind for kind, nouns in KINDS.items() for noun in nouns})


def _opposite(generator: random.Random) -> Example:
    return _sentence(generator, OPPOSITES)


def _tense(generator: random.Random) -> Example:
    return _sentence(generator, PAST)


# Each task's generator of sources, and its templates, which end in different words.
TASKS: dict[str, tuple[Callable[[random.Random], Example], tuple[str, ...]]] = {
    "sentiment": (_sentiment, ("{text}. opinion:", "a review: {text}. so it was", "{text}. good or bad?")),
    "category": (_category, ("{text}. kind of the first:", "{text}. the first is a", "{text}. what is it?")),
    "opposite": (_opposite, ("{text}. opposite:", "{text}. no, it is", "{text}. how is it not?")),
    "tense": (_tense, ("{text}. past:", "{text}. yesterday it", "{text}. and before?")),
}


def examples(task: str, seed: int, n_sources: int) -> Iterator[dict[str, str]]:
    """Yield the examples of a task: every source under every template, with source_id and template_id."""
    make, templates = TASKS[task]
    generator = random.Random(f"{task} {seed}")  # noqa: S311  no secrets here
    for source in range(n_sources):
        fill, target = make(generator)
        for number, template in enumerate(templates):
            yield {
                "inputs": template.format(**fill),
                "targets": target,
                "task": task,
                "source_id": f"{task}-{source}",
                "template_id": str(number),
            }


def write_tasks(directory: Path, seed: int) -> None:
    """Write one .jsonl file a task, in FLAN's field names."""
    directory.mkdir(parents=True, exist_ok=True)
    for task in TASKS:
        lines = (json.dumps(example) for example in examples(task, seed, N_SOURCES))
        (directory / f"{task}.jsonl").write_text("\n".join(lines) + "\n")


def base_lines(seed: int) -> list[str]:
    """Return what the base is trained on: the Python manual that Python ships, between sentences of the toy world."""
    generator = random.Random(f"base {seed}")  # noqa: S311
    manual = [line.strip() for topic in sorted(topics.topics) for line in topics.topics[topic].splitlines()]
    lines = [line.lower() for line in manual if len(line) > 40 and line.isascii()]
    words = task_words()
    for _ in range(len(lines)):
        subject, other = generator.sample(NOUNS, 2)
        lines.append(f"the {generator.choice(ADJECTIVES)} {subject} {generator.choice(VERBS)} the {other}.")
        lines.append(f"the {generator.choice(THINGS)} was {generator.choice([*GOOD, *BAD])}.")
        lines.append(" ".join(generator.sample(words, 6)))  # a word never read could never be said
    generator.shuffle(lines)
    return lines


def task_words() -> list[str]:
    """Return every word that prompts and targets may need."""
    templates = [template.format(text="") for _, each in TASKS.values() for template in each]
    answers = ["good", "bad", "the", "was", "and", *KINDS, *PAST.values(), *OPPOSITES.values()]
    words = " ".join([*templates, *answers, *NOUNS, *VERBS, *ADJECTIVES, *GOOD, *BAD, *THINGS])
    return sorted(set(words.split()))
