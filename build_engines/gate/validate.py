"""Judges what is published: the engine of a repository against the model folder that it was built from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from build_engines.check.compare import Rows, differences
from build_engines.check.execute import run_sequences
from build_engines.check.parity import compare, parity_sequences
from build_engines.check.samples import parity_lengths
from build_engines.check.speed import Speed, measure_speeds
from build_engines.engines import ENGINES, CompiledEngine
from build_engines.gate.judge import Evidence, judge, mend_for
from build_engines.gate.labelled import load_labelled, metric_checks
from build_engines.gate.model import check_model, check_text
from build_engines.gate.probe import grid_sequences, probe
from build_engines.gate.published import Published
from build_engines.gate.verdict import GateCheck, Verdict
from build_engines.model_files import ModelFiles, find_model
from build_engines.spec import ModelSpec, settle_spec
from build_engines.texts import load_text_set, read_texts, resolve_source, tokenize
from python_backends.runners import Runner
from tritonforge.recipe import Recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Int32Array = NDArray[np.int32]

_SAME_MODEL = 1e-3  # float32 engines of one model are far nearer, of two models nowhere near


@dataclass
class Validation:
    """Judges a published model by its recipe's thresholds, everything measured anew.

    Attributes:
        published: What to judge.
        build_root: Where the build left its float32 engine, for the speed; without it that is left out.
        texts: Held-out text in place of the recipe's.
        labelled: Labelled data in place of the recipe's.
        progress: Called when something slow begins.
    """

    published: Published
    build_root: Path
    texts: str | None = None
    labelled: str | None = None
    progress: Callable[[str], None] = lambda message: None

    def run(self) -> list[Verdict]:
        """Judge.

        Returns:
            The verdict on the model folder; if that passed, the one on the engine too.

        Raises:
            TritonForgeError: If the model folder, the texts or the engine cannot be read.
        """
        self.progress("weights and vocabulary")
        model = check_model(self._files, self._spec, self.published.tokenizer)
        texts, sequences = self._held_out
        if texts:
            known = check_text(sequences, self.published.tokenizer)
            model = replace(model, checks=(*model.checks, known))
        return [model, self._judge_engine()] if model.passed else [model]

    @cached_property
    def _recipe(self) -> Recipe:
        return self.published.recipe

    @cached_property
    def _files(self) -> ModelFiles:
        return find_model(self._recipe.model)

    @cached_property
    def _spec(self) -> ModelSpec:
        return settle_spec(self._recipe, self._files)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return Tokenizer.from_file(str(self.published.tokenizer))

    @cached_property
    def _runner(self) -> Runner:
        compiled = self.published.compiled
        return ENGINES[compiled.engine].load(compiled, self._recipe.threads.engine)

    @cached_property
    def _dense(self) -> PreTrainedModel:
        # torch takes seconds to import, and a model folder that fails never needs it
        from build_engines.export.load import load_model

        return load_model(self._files, self._spec.task, "eager")

    @cached_property
    def _held_out(self) -> tuple[list[str], list[Int32Array]]:
        """Text to judge by: the given file's, else the recipe's, else none."""
        recipe, spec = self._recipe, self._spec
        if self.texts is not None:
            path = resolve_source(self.texts, "--texts")
            texts = list(dict.fromkeys(read_texts(path, recipe.calibration.field, "--texts")))
            order = np.random.default_rng(recipe.calibration.seed).permutation(len(texts))
            texts = [texts[i] for i in order[: recipe.gate.samples]]
            sequences = tokenize(self._tokenizer, texts, spec.max_length)
            kept = [(text, ids) for text, ids in zip(texts, sequences, strict=True) if len(ids)]
            return [text for text, _ in kept], [ids for _, ids in kept]
        if recipe.calibration.texts is None:
            return [], []
        found = load_text_set(recipe, spec, self._tokenizer)
        return found.held_out_texts, found.held_out

    def _rows(self, compiled: CompiledEngine, runner: Runner, sequences: list[Int32Array]) -> Rows:
        """An engine's rows, float32 [sequences, width]."""
        return run_sequences(
            runner, self._spec, compiled.layout, sequences, self._recipe.batching.token_budget
        )

    def _reference(self, sequences: list[Int32Array]) -> Rows:
        """The dense model's rows."""
        from build_engines.check.reference import reference_outputs

        return reference_outputs(self._dense, self._spec, sequences)

    def _judge_engine(self) -> Verdict:
        """Run engine and reference, and judge."""
        published, recipe, spec = self.published, self._recipe, self._spec
        compiled, batching = published.compiled, recipe.batching
        texts, held = self._held_out
        self.progress("loading the engine")
        evidence = Evidence(
            subject=f"{compiled.engine}-{compiled.precision}",
            precision=compiled.precision,
            texts=texts,
            pruned=published.pruned,
        )
        if not published.pruned:  # the pruned weights are not published, so nothing can be run beside it
            self.progress("batch sizes and lengths")
            reference = self._reference(grid_sequences(spec, held or None))
            found = probe(
                self._runner,
                spec,
                compiled.layout,
                reference,
                held or None,
                batching.token_budget,
                batching.max_batch_size,
            )
            evidence = replace(evidence, probe=found)
        self.progress("accuracy")
        sequences = held or parity_sequences(spec, parity_lengths(spec.max_length))
        rows, reference = self._rows(compiled, self._runner, sequences), self._reference(sequences)
        if held:
            evidence = replace(evidence, rows=rows, reference=reference)
        else:
            parity = compare(rows, reference, [len(ids) for ids in sequences])
            evidence = replace(evidence, parity=parity)
        evidence = replace(evidence, metrics=self._metrics())
        if compiled.precision != "fp32":
            self.progress("speed")
            mine, theirs = self._speeds(sequences, reference)
            evidence = replace(evidence, speed=mine, baseline=theirs)
        verdict = judge(evidence, spec, recipe)
        if published.forced:
            note = GateCheck("forced", "skipped", detail="published with --force: the gate had refused it")
            verdict = replace(verdict, checks=(*verdict.checks, note))
        return verdict

    def _metrics(self) -> tuple[GateCheck, ...]:
        """The task's own metric."""
        source = self.labelled or self._recipe.gate.labelled
        if source is None:
            return ()
        self.progress("labelled data")
        data = load_labelled(source, self._spec, self._tokenizer, self._recipe.calibration.seed)
        compiled = self.published.compiled
        return metric_checks(
            data,
            self._rows(compiled, self._runner, data.sequences),
            self._reference(data.sequences),
            self._spec,
            self._recipe.gate.metric_drop,
            mend_for(compiled.precision),
        )

    def _speeds(self, sequences: list[Int32Array], reference: Rows) -> tuple[Speed | None, Speed | None]:
        """Of the engine and of the float32 one that its build left, if that is of the same model."""
        mine = self.published.compiled
        left = (self.build_root / self._recipe.name / "artifacts").glob(f"compile-{mine.engine}-fp32-*/model")
        folder = next(iter(sorted(left)), None)
        if folder is None or not (folder / mine.model_file).is_file():
            return None, None
        compiled = replace(mine, precision="fp32", folder=folder)
        runner = ENGINES[compiled.engine].load(compiled, self._recipe.threads.engine)
        few = sequences[:8]
        gap = differences(self._rows(compiled, runner, few), reference[: len(few)]).max()
        if gap > _SAME_MODEL and not self.published.pruned:
            return None, None
        loaded = {"mine": (self._runner, mine), "fp32": (runner, compiled)}
        speeds = measure_speeds(loaded, self._spec, self._recipe)
        return speeds["mine"], speeds["fp32"]
