"""Judges a published generator: what its engine answers, held against the model that it was built from.

The engine generates greedily in this process, from the files that Triton loads and with the settings that
it gets. transformers, in float32 with eager attention, then reads prompt and answer in one pass: at each
place it says which token it would have chosen, and how likely it thinks the one that was. So an early
difference does not make all later tokens count as wrong, and a near tie is told from an error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from google.protobuf import json_format, text_format
from numpy.typing import NDArray
from tokenizers import Tokenizer
from tritonclient.grpc import model_config_pb2 as pb

from build_engines.gate.verdict import GateCheck, Verdict
from build_engines.generation.answers import Answer, run_together
from build_engines.generation.facts import read_facts
from build_engines.generation.load import as_safetensors, load_causal
from build_engines.generation.serving import open_engine
from build_engines.model_files import ModelFiles
from python_backends.generator.chat import ChatTemplate
from python_backends.generator.protocol import FinishReason
from python_backends.generator.settings import GeneratorSettings
from tritonforge.errors import RepositoryError, UsageError
from tritonforge.server.repository import MANIFEST

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Ids = NDArray[np.int64]

PROMPTS = (
    "What is the capital of France?",
    "Write a short poem about the sea.",
    "Explain how rain forms, in two sentences.",
    "2 + 2 =",
    "Once upon a time, in the old town of Zürich,",
    "def fibonacci(n):\n",
)
_CHATS = 3  # so many of the prompts are asked as chats, where the model has a template
_TOKENS = 48
_SHOWN = 3


@dataclass(frozen=True)
class _Bars:
    """What is asked of a kind of arithmetic; a wrong graph misses it by far."""

    agreement: float
    log_prob: float


# SmolLM2-135M came to 0.996 and 0.0004 with weights in 16 bits, 0.96 and 0.05 in 8 bits, 0.76 and 0.37 in 4.
_BARS = {"exact": _Bars(0.97, 0.02), "rounded": _Bars(0.85, 0.25), "coarse": _Bars(0.5, 1.0)}


@dataclass(frozen=True)
class PublishedGenerator:
    """A generator in a repository.

    Attributes:
        name: Of the model.
        version: The one that Triton loads.
        folder: Of that version.
        settings: As the backend reads them.
        source: What the recipe named as the model.
        forced: Whether the gate had refused it.
    """

    name: str
    version: int
    folder: Path
    settings: GeneratorSettings
    source: str
    forced: bool

    @property
    def exactness(self) -> str:
        """Which of the bars apply: what the weights, the products and the cache are rounded to."""
        settings = self.settings
        if settings.precision == "int4-weights":
            return "coarse"
        exact = (
            settings.precision in ("fp32", "fp16")
            and settings.compute == "f32"
            and settings.kv_cache_precision == "f32"
        )
        return "exact" if exact else "rounded"


def find_generator_version(repository: Path, model: str) -> PublishedGenerator:
    """Read the manifest and the configuration of a model whose task is generation.

    Raises:
        RepositoryError: If they are damaged.
    """
    folder = repository / model
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        config = text_format.Parse((folder / "config.pbtxt").read_text(encoding="utf-8"), pb.ModelConfig())
        version, facts = int(manifest["version"]), manifest["build"]
        return PublishedGenerator(
            name=model,
            version=version,
            folder=folder / str(version),
            settings=GeneratorSettings.parse(
                json_format.MessageToDict(config, preserving_proto_field_name=True)
            ),
            source=str(facts["recipe"]["model"]),
            forced=bool(facts.get("forced")),
        )
    except (OSError, ValueError, KeyError, TypeError, text_format.ParseError) as error:
        raise RepositoryError(
            f"cannot be read: {type(error).__name__}: {error}",
            where=str(folder),
            mend="build it again: tritonforge build RECIPE",
        ) from error


@dataclass
class GeneratorValidation:
    """Judges a published generator.

    Attributes:
        published: What to judge.
        prompts: In place of :data:`PROMPTS`; all are continued as they are.
        progress: Called when something slow begins.
    """

    published: PublishedGenerator
    prompts: Sequence[str] | None = None
    progress: Callable[[str], None] = lambda message: None

    def run(self) -> list[Verdict]:
        """Judge.

        Raises:
            UsageError: If the engine needs another machine.
            TritonForgeError: If the model or the engine cannot be read.
        """
        settings = self.published.settings
        if settings.engine != "openvino-genai":
            raise UsageError(
                f"{settings.engine} is judged on a machine with its GPU only, and that is not offered yet",
                where=self.published.name,
                mend=f'serve it there and ask it: tritonforge predict {self.published.name} "TEXT"',
            )
        self.progress("reading the model")
        with as_safetensors(self.published.source) as files:
            checks = self._judge(files)
        if self.published.forced:
            note = GateCheck("forced", "skipped", detail="published with --force: the gate had refused it")
            checks.append(note)
        return [Verdict(f"{settings.engine}-{settings.precision}", tuple(checks))]

    def _judge(self, files: ModelFiles) -> list[GateCheck]:
        settings = self.published.settings
        reference = load_causal(files, "eager")
        served, shown = self._tokenized
        checks = [_same_ids(files, served, shown), _same_stops(settings, read_facts(files).stop_ids)]
        self.progress("loading the engine")
        rebuild = "tritonforge build RECIPE --rerun publish"
        engine = open_engine(self.published.folder, settings, str(self.published.folder), rebuild)
        try:
            self.progress("generating")
            alone = [run_together(engine, [prompt], _TOKENS)[0] for prompt in served]
            together = run_together(engine, served, _TOKENS)
            (cut,) = run_together(engine, served[:1], 5, ignore_eos=True)
        finally:
            engine.close()
        self.progress("reading the answers")
        checks += _against_reference(reference, served, alone, _BARS[self.published.exactness], shown)
        checks.append(_neighbours(alone, together, shown, self.published.exactness == "exact"))
        checks.append(_ends(alone, cut, settings.stop_token_ids, shown))
        return checks

    @cached_property
    def _tokenized(self) -> tuple[list[Ids], list[str]]:
        """Tokens of the prompts, made as the backend makes them, and the texts behind them."""
        folder, settings = self.published.folder, self.published.settings
        tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        chat = ChatTemplate.from_folder(folder)
        longest = settings.max_length - min(_TOKENS, settings.max_length // 2)
        found, texts = [], []
        for number, prompt in enumerate(self.prompts if self.prompts is not None else PROMPTS):
            special = settings.add_special_tokens
            if self.prompts is None and number < _CHATS and chat.available:
                prompt = chat.render([{"role": "user", "content": prompt}])
                special = False
            ids = tokenizer.encode(prompt, add_special_tokens=special).ids
            if ids:
                found.append(np.array(ids[:longest], np.int64))
                texts.append(prompt)
        if not found:
            raise UsageError("there is no text to judge by", mend="give a file with at least one line")
        return found, texts


def _same_ids(files: ModelFiles, served: Sequence[Ids], texts: Sequence[str]) -> GateCheck:
    """Whether the served tokenizer and template make the tokens that the model's own make."""
    own = Tokenizer.from_file(str(files.folder / "tokenizer.json"))
    worst = []
    for ids, text in zip(served, texts, strict=True):
        plain = own.encode(text, add_special_tokens=False).ids[: len(ids)]
        special = own.encode(text).ids[: len(ids)]
        if list(ids) not in (plain, special):
            worst.append({"text": text, "served": str(list(ids[:8])), "expected": str(plain[:8])})
    return GateCheck(
        "tokenizer",
        "fail" if worst else "pass",
        figure=float(len(worst)),
        threshold=0.0,
        detail=f"{len(texts)} prompts of which the served tokenizer makes other tokens than the model's own",
        worst=tuple(worst[:_SHOWN]),
        mend="build it again: tritonforge build RECIPE --rerun tokenize",
    )


def _same_stops(settings: GeneratorSettings, expected: Sequence[int]) -> GateCheck:
    """Whether answers end where the model ends them."""
    same = set(settings.stop_token_ids) == set(expected)
    return GateCheck(
        "stop_tokens",
        "pass" if same else "fail",
        detail=f"served {sorted(settings.stop_token_ids)}, the model's {sorted(expected)}",
        mend="build it again: tritonforge build RECIPE --rerun publish",
    )


def _against_reference(
    model: PreTrainedModel,
    prompts: Sequence[Ids],
    answers: Sequence[Answer],
    bars: _Bars,
    texts: Sequence[str],
) -> list[GateCheck]:
    """Whether transformers would have chosen the same tokens, and finds them as likely."""
    agree, apart = [], []
    rows: list[dict[str, Any]] = []
    for prompt, answer, text in zip(prompts, answers, texts, strict=True):
        likely = _log_probs(model, prompt, answer.tokens)
        chosen = likely[np.arange(len(answer.tokens)), answer.tokens]
        same = likely.argmax(1) == answer.tokens
        agree.append(same)
        apart.append(np.abs(chosen - answer.log_probs))
        rows.append({"text": text, "agreement": float(same.mean()), "log_prob": float(apart[-1].mean())})
    share, distance = float(np.concatenate(agree).mean()), float(np.concatenate(apart).mean())
    count = sum(map(len, agree))
    mend = "try --precision fp16, or generation.compute f32 and generation.kv_cache_precision f32"
    return [
        GateCheck(
            "answers.agreement",
            "pass" if share >= bars.agreement else "fail",
            share,
            bars.agreement,
            f"share of {count} greedy tokens that transformers would have chosen at the same place",
            tuple(sorted(rows, key=lambda row: row["agreement"])[:_SHOWN]),
            mend,
        ),
        GateCheck(
            "answers.log_prob",
            "pass" if distance <= bars.log_prob else "fail",
            distance,
            bars.log_prob,
            "mean distance of the log probability of these tokens to transformers'",
            tuple(sorted(rows, key=lambda row: -row["log_prob"])[:_SHOWN]),
            mend,
        ),
    ]


def _log_probs(model: PreTrainedModel, prompt: Ids, tokens: Sequence[int]) -> NDArray[np.float64]:
    """What transformers expects at each token of an answer, float64 [tokens, vocabulary]."""
    import torch

    ids = torch.from_numpy(np.concatenate([prompt, np.array(tokens, np.int64)]))[None]
    with torch.inference_mode():
        logits = model(ids).logits[0, len(prompt) - 1 : -1].double()
    found: NDArray[np.float64] = logits.log_softmax(-1).numpy()
    return found


def _neighbours(
    alone: Sequence[Answer], together: Sequence[Answer], texts: Sequence[str], promised: bool
) -> GateCheck:
    """Whether an answer is the same among others as alone."""
    worst: list[Mapping[str, Any]] = []
    for mine, theirs, text in zip(alone, together, texts, strict=True):
        if mine.tokens != theirs.tokens:
            pairs = zip(mine.tokens, theirs.tokens, strict=False)
            first = next((n for n, (a, b) in enumerate(pairs) if a != b), len(theirs.tokens))
            worst.append({"text": text, "equal_tokens": first})
    detail = f"{len(alone) - len(worst)} of {len(alone)} answers are the same alone and all at once"
    if not promised:
        detail += "; with these precisions that is not promised"
        return GateCheck("answers.neighbours", "skipped", detail=detail)
    return GateCheck(
        "answers.neighbours",
        "fail" if worst else "pass",
        detail=detail,
        worst=tuple(worst[:_SHOWN]),
        mend="please report this: with float32 products an answer must not depend on its neighbours",
    )


def _ends(answers: Sequence[Answer], cut: Answer, stops: Sequence[int], texts: Sequence[str]) -> GateCheck:
    """Whether answers end at a stop token or at their limit, and nowhere else."""
    worst: list[Mapping[str, Any]] = []
    for answer, text in zip(answers, texts, strict=True):
        places = [n for n, token in enumerate(answer.tokens) if token in stops]
        last = len(answer.tokens) - 1
        right = places == [last] if answer.finish is FinishReason.STOP else not places
        if not right:
            worst.append({"text": text, "finish": answer.finish.value, "stop_tokens_at": str(places)})
    if (len(cut.tokens), cut.finish) != (5, FinishReason.LENGTH):
        worst.append({"text": texts[0], "finish": cut.finish.value, "tokens_of_5": len(cut.tokens)})
    stopped = sum(answer.finish is FinishReason.STOP for answer in answers)
    return GateCheck(
        "answers.ends",
        "fail" if worst else "pass",
        detail=f"{stopped} answers end at a stop token, {len(answers) - stopped} at their limit, one at 5",
        worst=tuple(worst[:_SHOWN]),
        mend="compare eos_token_id in generation_config.json with the tokenizer's end of turn",
    )
