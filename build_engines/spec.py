"""What a model is and how it is used: the recipe's `auto` values settled from the model's own files."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from build_engines.model_files import ModelFiles
from tritonforge.errors import ModelFilesError, RecipeError
from tritonforge.recipe import Pooling, Recipe, Task

# transformers writes this as model_max_length where a tokenizer names no limit.
_NO_LIMIT = 1_000_000
_MAX_LENGTH_FALLBACK = 512


@dataclass(frozen=True)
class ModelSpec:
    """All that export, backends and configs need to know of a model.

    Attributes:
        task: embedding or classification.
        pooling: How token vectors become one (embedding).
        normalize: Whether embeddings get unit length.
        activation: ``softmax`` or ``sigmoid`` (classification).
        head_pooling: What the classification head reads: ``cls``, or ``mean`` for some ModernBERT.
        labels: Names in the order of the logits (classification).
        width: Columns of the output: the embedding's dimension, or the number of labels.
        max_length: Tokens of a text at most, special tokens included.
        vocab_size: Rows of the embedding table; ids are below it.
        pad_token_id: Filler of the padded graph.
        lowercase: Whether sentence-transformers lowercases texts first.
        notes: What was assumed where the files say nothing.
    """

    task: Task
    pooling: Pooling
    normalize: bool
    activation: str
    head_pooling: Pooling
    labels: tuple[str, ...]
    width: int
    max_length: int
    vocab_size: int
    pad_token_id: int
    lowercase: bool = False
    notes: tuple[str, ...] = field(default=())

    @property
    def output_name(self) -> str:
        """Name of the graph's output."""
        return "embedding" if self.task == "embedding" else "scores"


def settle_spec(recipe: Recipe, files: ModelFiles) -> ModelSpec:
    """Settle every `auto` of a recipe from the model's files.

    Raises:
        RecipeError: If the recipe asks for what the model cannot do.
        ModelFilesError: If the files ask for what is not supported.
    """
    config = files.config
    notes: list[str] = []
    task = _task(recipe, files)
    pooling, normalize = _pooling(recipe, files, notes) if task == "embedding" else ("cls", False)
    labels = _labels(recipe, files) if task == "classification" else ()
    sentence_config = files.read_json("sentence_bert_config.json") or {}
    return ModelSpec(
        task=task,
        pooling=pooling,
        normalize=normalize,
        activation=_activation(recipe, config, len(labels)),
        head_pooling="mean" if config.get("classifier_pooling") == "mean" else "cls",
        labels=labels,
        width=len(labels) or int(config.get("hidden_size") or config.get("dim") or 0),
        max_length=_max_length(recipe, files, sentence_config, notes),
        vocab_size=int(config.get("vocab_size", 0)),
        pad_token_id=int(config.get("pad_token_id") or 0),
        lowercase=bool(sentence_config.get("do_lower_case", False)),
        notes=tuple(notes),
    )


def _task(recipe: Recipe, files: ModelFiles) -> Task:
    """The recipe's task, or the one that the model's files name."""
    architectures = files.config.get("architectures") or []
    classifies = any(name.endswith("ForSequenceClassification") for name in architectures)
    if recipe.task == "classification" and not classifies:
        raise RecipeError(
            f"task is classification, and the model is {architectures or 'of no named architecture'}",
            where="task",
            mend="give a ...ForSequenceClassification model, or set task: embedding",
        )
    if recipe.task == "generation":
        raise ValueError("generation has steps of its own: build_engines.generation")
    if recipe.task != "auto":
        return recipe.task
    # sentence-transformers' models keep the architecture that they were trained from
    embeds = files.read_json("modules.json") is not None
    if not embeds and any(name.endswith("ForCausalLM") for name in architectures):
        raise RecipeError(
            f"the model is a {architectures[0]}, which generates text",
            where="task",
            mend="say task: generation",
        )
    other = [n for n in architectures if n.endswith(("ForTokenClassification", "ForQuestionAnswering"))]
    if other:
        raise RecipeError(
            f"the model is a {other[0]}, a task that is not served yet",
            where="task",
            mend="set `task: embedding` to serve its encoder all the same",
        )
    return "classification" if classifies else "embedding"


def _pooling(recipe: Recipe, files: ModelFiles, notes: list[str]) -> tuple[Pooling, bool]:
    """Pooling and normalization: the recipe's, else modules.json's, else the mean without normalization."""
    pooling: Pooling = "mean"
    normalize = False
    modules = files.read_json("modules.json")
    if modules is None and "auto" in (recipe.embedding.pooling, recipe.embedding.normalize):
        notes.append("no modules.json: mean pooling without normalization assumed where the recipe is silent")
    for module in modules or []:
        kind = str(module.get("type", "")).rsplit(".", 1)[-1]
        if kind == "Pooling" and recipe.embedding.pooling == "auto":
            pooling = _pooling_mode(files, str(module.get("path", "")))
        elif kind == "Normalize":
            normalize = True
        elif kind not in {"Transformer", "Pooling"}:
            raise ModelFilesError(
                f"sentence-transformers module {kind!r} is not supported",
                where=str(files.folder / "modules.json"),
                mend="use a model of Transformer, Pooling and Normalize modules",
            )
    if recipe.embedding.pooling != "auto":
        pooling = recipe.embedding.pooling
    if recipe.embedding.normalize != "auto":
        normalize = recipe.embedding.normalize
    return pooling, normalize


def _pooling_mode(files: ModelFiles, folder: str) -> Pooling:
    """Read a pooling module's config, in its old form (booleans) or its new one (a name)."""
    name = f"{folder}/config.json"
    config = files.read_json(name) or {}
    modes = {"mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls"}
    modes |= {"lasttoken": "last", "last_token": "last", "last": "last"}
    chosen = config.get("pooling_mode")
    active = [chosen] if isinstance(chosen, str) else list(chosen or [])
    active += [key.removeprefix("pooling_mode_") for key, on in config.items() if on is True]
    active = [mode for mode in active if mode != "include_prompt"]
    if len(active) != 1 or active[0] not in modes:
        raise ModelFilesError(
            f"pooling {active or 'of no mode'} is not supported; mean, cls and lasttoken are",
            where=str(files.folder / name),
            mend="set embedding.pooling in the recipe, if another pooling will do",
        )
    return modes[active[0]]  # type: ignore[return-value]  # narrowed by the table


def _labels(recipe: Recipe, files: ModelFiles) -> tuple[str, ...]:
    """Label names in the order of the logits."""
    id2label = files.config.get("id2label") or {}
    count = len(id2label) or int(files.config.get("num_labels", 2))
    labels = tuple(str(id2label.get(str(i), f"LABEL_{i}")) for i in range(count))
    if recipe.classification.labels != "auto":
        labels = tuple(recipe.classification.labels)
    if len(labels) != count:
        raise RecipeError(
            f"{len(labels)} labels for a model of {count}",
            where="classification.labels",
            mend="name one label for each logit, or leave it on auto",
        )
    # labels.txt holds one a line, and Triton reads it as well.
    odd = [label for label in labels if label.splitlines() != [label]]
    if odd:
        raise RecipeError(
            f"labels {odd} are not text of one line",
            where="classification.labels",
            mend="name the labels in the recipe, in the order of the logits",
        )
    return labels


def _activation(recipe: Recipe, config: dict[str, Any], labels: int) -> str:
    """``sigmoid`` for several labels at once and for a single logit, else ``softmax``."""
    if recipe.classification.activation != "auto":
        return recipe.classification.activation
    multi_label = config.get("problem_type") == "multi_label_classification"
    return "sigmoid" if multi_label or labels == 1 else "softmax"


def _max_length(recipe: Recipe, files: ModelFiles, sentence_config: dict[str, Any], notes: list[str]) -> int:
    """The recipe's length, else the shortest that the model's files name; never beyond the positions."""
    config = files.config
    limits: list[int] = []
    positions = config.get("max_position_embeddings")
    if positions:
        # RoBERTa's family and MPNet count positions from pad_token_id + 1, which may be 0 + 1
        counted_from_padding = config["model_type"] in {
            "roberta",
            "xlm-roberta",
            "xlm-roberta-xl",
            "camembert",
            "mpnet",
            "xmod",
            "roberta-prelayernorm",
        }
        padding = config.get("pad_token_id")
        if padding is None or config["model_type"] == "mpnet":  # MPNet counts from 1 + 1 whatever it says
            padding = 1
        limits.append(int(positions) - (int(padding) + 1 if counted_from_padding else 0))
    hard_limit = limits[0] if limits else None
    if recipe.max_length != "auto":
        if hard_limit is not None and recipe.max_length > hard_limit:
            raise RecipeError(
                f"{recipe.max_length} tokens, and the model has positions for {hard_limit}",
                where="max_length",
                mend=f"set max_length to {hard_limit} or less",
            )
        return recipe.max_length
    tokenizer_config = files.read_json("tokenizer_config.json") or {}
    for named in (sentence_config.get("max_seq_length"), tokenizer_config.get("model_max_length")):
        if isinstance(named, int | float) and 0 < named < _NO_LIMIT:
            limits.append(int(named))
    if not limits:
        notes.append(f"the model names no maximum length: {_MAX_LENGTH_FALLBACK} tokens assumed")
        return _MAX_LENGTH_FALLBACK
    return min(limits)
