"""The demo's text: what the base reads, and four tasks that have little in common."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from pydoc_data import topics

N_SOURCES = 80  # sources of each task; every one is rendered by every template

# The toy world: enough words for sentences, opinions and a made-up language.
NOUNS = [
    "cat",
    "dog",
    "horse",
    "river",
    "stone",
    "garden",
    "window",
    "soldier",
    "teacher",
    "baker",
    "market",
    "island",
    "winter",
    "letter",
    "hammer",
    "candle",
]
VERBS = ["sees", "likes", "finds", "follows", "paints", "carries", "forgets", "visits"]
ADJECTIVES = ["red", "old", "quiet", "small", "heavy", "bright", "narrow", "golden"]
GOOD = ["lovely", "splendid", "charming", "brilliant", "delicious", "wonderful", "superb", "gentle"]
BAD = ["awful", "dreadful", "boring", "broken", "bitter", "horrible", "shabby", "cruel"]
THINGS = ["soup", "film", "song", "hotel", "novel", "garden", "concert", "service"]
WORDS = [*NOUNS, *VERBS, *ADJECTIVES]

Example = tuple[dict[str, str], str]  # what fills a template, and the target


def _reverse(generator: random.Random) -> Example:
    word = generator.choice(WORDS)[:4] + generator.choice("abcdefghijklmnopqrstuvwxyz")
    return {"word": word}, word[::-1]


def _addition(generator: random.Random) -> Example:
    a, b = generator.randrange(100), generator.randrange(100)
    return {"a": str(a), "b": str(b)}, str(a + b)


def _sentiment(generator: random.Random) -> Example:
    good = generator.random() < 0.5
    first, second = generator.sample(GOOD if good else BAD, 2)
    text = f"the {generator.choice(THINGS)} was {first} and {second}"
    return {"text": text}, "good" if good else "bad"


def _translation(generator: random.Random) -> Example:
    words = [generator.choice(ADJECTIVES), generator.choice(NOUNS), generator.choice(VERBS)]
    return {"text": " ".join(words)}, " ".join(_toy_language(word) for word in words)


def _toy_language(word: str) -> str:
    return word[1:] + word[0] + "o"


# Each task's generator of sources, and its templates. A template ends in a space: the state at the prompt's last token
# is then the one that the answer's first letter comes from.
TASKS: dict[str, tuple[Callable[[random.Random], Example], tuple[str, ...]]] = {
    "reverse": (_reverse, ("reverse: {word} = ", "{word} backwards is ", "spell {word} from the end: ")),
    "addition": (_addition, ("{a} + {b} = ", "add {a} and {b}: ", "the sum of {a} and {b} is ")),
    "sentiment": (_sentiment, ("{text}. opinion: ", "review: {text}. verdict: ", "{text}. good or bad? ")),
    "translation": (_translation, ("{text} in toy: ", "say in toy: {text} = ", "toy for {text} is ")),
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


def base_text(seed: int) -> str:
    """Return what the base is trained on: the Python manual that Python ships, between sentences of the toy world."""
    generator = random.Random(f"base {seed}")  # noqa: S311
    manual = [line.strip() for topic in sorted(topics.topics) for line in topics.topics[topic].splitlines()]
    lines = [line for line in manual if len(line) > 40 and line.isascii()]
    for _ in range(len(lines)):
        subject, other = generator.sample(NOUNS, 2)
        lines.append(f"the {generator.choice(ADJECTIVES)} {subject} {generator.choice(VERBS)} the {other}.")
        lines.append(f"{generator.randrange(100)} or {generator.randrange(100)} {other}s")
        lines.append(f"the {generator.choice(THINGS)} was {generator.choice([*GOOD, *BAD])}.")
    generator.shuffle(lines)
    return "\n".join(lines)
