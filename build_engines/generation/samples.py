"""What a generator is judged on: prompts to answer, and text to find likely."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer

from build_engines.generation.answers import Ids
from build_engines.texts import read_texts, resolve_source
from python_backends.generator.chat import ChatTemplate
from tritonforge.errors import CalibrationError
from tritonforge.recipe import Recipe

ANSWER_TOKENS = 24
_WINDOW = 256  # tokens of one text that are read
_TOTAL = 2048  # tokens of all texts: perplexity over them is steady to a thousandth between builds
_LONG_PROMPT = 300  # more than a step takes, so that it is split

PROMPTS = (
    "What is the capital of France?",
    "Explain in two sentences how a heat pump works.",
    "Write a Python function that reverses a list.",
    "Name three rivers of Europe.",
)
TEXTS = (
    "The river rises in the mountains, where snow lies until early summer, and runs north through a "
    "narrow valley before it reaches the plain. For most of its length it is shallow and quick. Below "
    "the old bridge it slows down, and barges used to carry timber and salt from there to the sea.",
    "A heat pump moves heat from a cold place to a warm one. A liquid evaporates at low pressure and "
    "takes up heat from the air outside; a compressor raises the pressure of the vapour, which grows "
    "hot, and gives its heat to the water of the heating as it condenses. For each unit of electricity "
    "it delivers three or four units of heat.",
    'def mean(values):\n    """Return the arithmetic mean of a non-empty sequence."""\n'
    "    if not values:\n        raise ValueError('mean of an empty sequence')\n"
    "    return sum(values) / len(values)\n\n\ndef variance(values):\n    centre = mean(values)\n"
    "    return sum((v - centre) ** 2 for v in values) / len(values)\n",
    "Dear Ms Keller, thank you for your letter of 3 March. We have looked into the delay of your order "
    "and found that the parcel was sent to the wrong depot. It left there this morning and should reach"
    " you by Thursday. We have returned the cost of delivery to your account and are sorry for the "
    "trouble.",
    "The parliament met in the capital on Monday to discuss the budget for the coming year. The "
    "minister of finance said that spending on schools and hospitals would rise by four per cent, while"
    " the opposition argued that this was less than the rise in prices and called for a new tax on "
    "large companies.",
    "To bake bread you need flour, water, salt and yeast. Mix them, knead the dough for ten minutes and"
    " let it rest in a warm place until it has doubled. Shape a loaf, let it rise again for half an "
    "hour, and bake it at 220 degrees until the crust is brown and the bottom sounds hollow.",
    "She closed the door behind her and stood for a moment in the dark hall. Somewhere above, a clock "
    'was ticking. "You are late," said a voice from the stairs. "I know," she answered, and put down '
    'the suitcase. "The train stopped for an hour at the border, and nobody would tell us why."',
    "Photosynthesis is the process by which plants, algae and some bacteria turn light into chemical "
    "energy. In the first stage, light splits water and oxygen is released; in the second, carbon "
    "dioxide is bound and built into sugars. Nearly all life on the surface of the Earth depends on it.",
)


def load_prompts(tokenizer_folder: Path, max_length: int) -> list[Ids]:
    """Tokens of the prompts: as chats where there is a template, and a long one that is no chat."""
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    chat = ChatTemplate.from_folder(tokenizer_folder)
    found = []
    for prompt in PROMPTS:
        if chat.available:
            text = chat.render([{"role": "user", "content": prompt}])
            found.append(tokenizer.encode(text, add_special_tokens=False).ids)
        else:
            found.append(tokenizer.encode(prompt).ids)
    found.append(tokenizer.encode(" ".join(TEXTS)).ids[:_LONG_PROMPT])
    room = max_length - answer_tokens(max_length)
    return [np.array(ids[:room], dtype=np.int64) for ids in found if ids]


def answer_tokens(max_length: int) -> int:
    """Tokens that are generated for each prompt."""
    return min(ANSWER_TOKENS, max_length // 2)


def load_sequences(recipe: Recipe, tokenizer_folder: Path, max_length: int) -> tuple[str, list[Ids]]:
    """Held-out text, and where it is from: ``gate.texts``, ``calibration.texts``, or a few texts of our own.

    Raises:
        RecipeError: If the recipe names text that is not there.
        CalibrationError: If it cannot be read, or is too little.
    """
    named: Sequence[tuple[str, str | None]] = (
        ("gate.texts", recipe.gate.texts),
        ("calibration.texts", recipe.calibration.texts),
    )
    where, source = next(((key, text) for key, text in named if text is not None), ("", None))
    if source is None:
        texts, source = list(TEXTS), "built-in texts"
    else:
        texts = read_texts(resolve_source(source, where), recipe.calibration.field, where)
        order = np.random.default_rng(recipe.calibration.seed).permutation(len(texts))
        texts = [texts[number] for number in order]
    tokenizer = Tokenizer.from_file(str(tokenizer_folder / "tokenizer.json"))
    longest = min(_WINDOW, max_length)
    found: list[Ids] = []
    left = _TOTAL
    for text in texts:
        ids = tokenizer.encode(text).ids[: min(longest, left)]
        if len(ids) > 1:  # the first is given, the others are judged
            found.append(np.array(ids, dtype=np.int64))
            left -= len(ids)
        if left < 2:
            break
    if not found:
        raise CalibrationError(
            "gives no two tokens to judge by",
            where=where or "tokenizer",
            mend="name some texts in gate.texts",
        )
    return source, found
