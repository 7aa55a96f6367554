"""Models small enough to export in seconds, and what is built of them once for all tests."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Protocol

import hypothesis
import numpy as np
import pytest
from numpy.typing import NDArray

from build_engines.context import BuildContext
from build_engines.pipeline import build, make_context
from build_engines.report import BuildReport
from tests.order import pytest_collection_modifyitems, pytest_xdist_make_scheduler  # noqa: F401  # hooks
from tritonforge.recipe import Recipe, load_recipe
from tritonforge.server import ServerOptions, TritonServer

CHECKOUT = Path(__file__).parents[1]
# How long an example takes says how busy the machine is.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.load_profile("tests")

MAX_LENGTH = 64  # tokens of a text that the tiny models take
LABELS = ("calm", "glad", "sad")

# Written as transformers' own classes take them; each with a tokenizer of its own kind.
_SIZES: dict[str, Any] = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}
ARCHITECTURES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "bert": ("BertConfig", "BertTokenizer", _SIZES),
    "roberta": ("RobertaConfig", "RobertaTokenizer", _SIZES),
    "xlm-roberta": ("XLMRobertaConfig", "XLMRobertaTokenizer", _SIZES),
    "distilbert": (
        "DistilBertConfig",
        "DistilBertTokenizer",
        {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64},
    ),
    "mpnet": ("MPNetConfig", "MPNetTokenizer", _SIZES),
    "electra": ("ElectraConfig", "ElectraTokenizer", {**_SIZES, "embedding_size": 16}),
    "modernbert": (
        "ModernBertConfig",
        "BertTokenizer",
        # One global layer among local ones whose window is far shorter than the texts.
        {**_SIZES, "num_hidden_layers": 3, "global_attn_every_n_layers": 2, "local_attention": 8},
    ),
    "albert": ("AlbertConfig", "AlbertTokenizer", {**_SIZES, "embedding_size": 16}),
    "deberta-v2": (
        "DebertaV2Config",
        "DebertaV2Tokenizer",
        {
            **_SIZES,
            "relative_attention": True,
            "position_buckets": 8,
            "pos_att_type": ["p2c", "c2p"],
            "position_biased_input": False,
            "norm_rel_ebd": "layer_norm",
            "share_att_key": True,
        },
    ),
    "fnet": ("FNetConfig", "FNetTokenizer", _SIZES),
    # Causal, and two query heads share one key head.
    "qwen3": ("Qwen3Config", "Qwen2Tokenizer", {**_SIZES, "num_key_value_heads": 2, "head_dim": 8}),
}
COUNTED_FROM_PADDING = {"roberta", "xlm-roberta", "mpnet"}


class TinyModel(Protocol):
    """Makes a random model; the same arguments give the same folder."""

    def __call__(self, architecture: str, task: str = "embedding", **config: Any) -> Path: ...


@dataclass(frozen=True)
class Built:
    """A recipe that was built.

    Attributes:
        context: With everything that the steps found.
        report: What they told.
    """

    context: BuildContext
    report: BuildReport


class Build(Protocol):
    """Builds a recipe given as keys of the YAML."""

    def __call__(self, *, into: Path, until: str | None = None, **recipe: Any) -> Built: ...


@cache
def training_texts() -> tuple[str, ...]:
    """A few articles, and a line of each of some other scripts."""
    from gensim.test.utils import datapath

    lines = Path(datapath("lee_background.cor")).read_text(encoding="utf-8").splitlines()[:60]
    return (*lines, "你好世界 今天天气很好", "مرحبا بالعالم", "नमस्ते दुनिया", "привет мир", "🙂🚀")


@cache
def trained_tokenizer(kind: str) -> Any:
    """A tokenizer of transformers' class ``kind``, trained on :func:`training_texts`."""
    import transformers

    return getattr(transformers, kind)().train_new_from_iterator(training_texts(), 400)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TinyModel:
    made: dict[str, Path] = {}

    def make(architecture: str, task: str = "embedding", **config: Any) -> Path:
        key = repr((architecture, task, sorted(config.items())))
        if key not in made:
            made[key] = tmp_path_factory.mktemp(architecture)
            _save_tiny(made[key], architecture, task, config)
        return made[key]

    return make


def _save_tiny(folder: Path, architecture: str, task: str, overrides: dict[str, Any]) -> None:
    """Write model and tokenizer with save_pretrained."""
    import torch
    import transformers

    config_class, tokenizer_class, sizes = ARCHITECTURES[architecture]
    tokenizer = trained_tokenizer(tokenizer_class)
    # MPNet counts from 1 whatever its padding token is.
    first = {"mpnet": 2}.get(architecture, tokenizer.pad_token_id + 1)
    settings: dict[str, Any] = {
        **sizes,
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "max_position_embeddings": MAX_LENGTH + (first if architecture in COUNTED_FROM_PADDING else 0),
    }
    if task == "classification":
        settings["id2label"] = dict(enumerate(LABELS))
        settings["label2id"] = {label: number for number, label in enumerate(LABELS)}
    lists = {key: list(value) if isinstance(value, tuple) else value for key, value in overrides.items()}
    config = getattr(transformers, config_class)(**{**settings, **lists})
    auto = (
        transformers.AutoModelForSequenceClassification
        if task == "classification"
        else transformers.AutoModel
    )
    torch.manual_seed(7)
    model = auto.from_config(config)
    with torch.no_grad():
        # Far from the tiny weights of a fresh model, with which attention hardly matters to the result.
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.fixture(scope="session")
def build_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where artefacts and reports of tiny models go."""
    return tmp_path_factory.mktemp("build")


@pytest.fixture(scope="session")
def build_recipe(build_root: Path) -> Build:
    """Builds with one artefact store a name for the whole session: the same model is exported once."""

    def run(*, into: Path, until: str | None = None, **keys: Any) -> Built:
        recipe = Recipe.model_validate(keys)
        context = make_context(recipe, Path(f"{recipe.name}.yaml"), into, build_root)
        return Built(context, build(context, until))

    return run


@pytest.fixture(scope="session")
def tiny_repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where :func:`tiny_build` publishes."""
    return tmp_path_factory.mktemp("repository")


@pytest.fixture(scope="session")
def tiny_build(
    tiny_model: TinyModel, build_recipe: Build, tiny_repository: Path
) -> Callable[[str, str], Built]:
    """Builds a tiny model for both engines, once a session; its name is ``ARCHITECTURE-TASK``."""

    @cache
    def make(architecture: str, task: str) -> Built:
        return build_recipe(
            into=tiny_repository,
            name=f"{architecture}-{task}",
            model=str(tiny_model(architecture, task)),
            engine="auto",
            threads={"engine": 1},
            length_mix=[{"tokens": 8}, {"tokens": 32}],
        )

    return make


class Reference(Protocol):
    """What transformers answers to texts, one at a time."""

    def __call__(self, folder: Path, texts: Sequence[str], pooling: str = "mean") -> NDArray[np.float32]: ...


@pytest.fixture(scope="session")
def transformers_answer() -> Reference:
    """Embeddings, or softmax scores of a classifier, by way of transformers' own classes alone."""
    import torch
    import transformers

    @cache
    def load(folder: Path) -> tuple[Any, Any, bool]:
        config = transformers.AutoConfig.from_pretrained(folder)
        classifies = config.architectures[0].endswith("ForSequenceClassification")
        kind = transformers.AutoModelForSequenceClassification if classifies else transformers.AutoModel
        model = kind.from_pretrained(folder, attn_implementation="eager").eval()
        return transformers.AutoTokenizer.from_pretrained(folder), model, classifies

    @torch.inference_mode()
    def answer(folder: Path, texts: Sequence[str], pooling: str = "mean") -> NDArray[np.float32]:
        tokenizer, model, classifies = load(folder)
        rows = []
        for text in texts:
            inputs = tokenizer(text, truncation=True, max_length=MAX_LENGTH, return_tensors="pt")
            # A literal padding token in a text is a token like others; nothing is padded here.
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            output = model(**inputs)
            if classifies:
                rows.append(output.logits.softmax(-1)[0])
            else:
                hidden = output.last_hidden_state[0]
                rows.append({"mean": hidden.mean(0), "cls": hidden[0], "last": hidden[-1]}[pooling])
        return np.stack([row.numpy() for row in rows])

    return answer


@pytest.fixture(scope="session")
def minilm_build_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Reports of its own over the artefacts of the checkout, or of ``TRITONFORGE_TEST_BUILD``.

    Half a minute of export is paid once, not in each session.
    """
    artifacts = Path(os.environ.get("TRITONFORGE_TEST_BUILD", CHECKOUT / "build")) / "minilm" / "artifacts"
    artifacts.mkdir(parents=True, exist_ok=True)
    root = tmp_path_factory.mktemp("minilm-build")
    (root / "minilm").mkdir()
    (root / "minilm" / "artifacts").symlink_to(artifacts)
    return root


@pytest.fixture(scope="session")
def minilm(tmp_path_factory: pytest.TempPathFactory, minilm_build_root: Path) -> Built:
    """The first recipe, published into a repository of its own."""
    path = CHECKOUT / "recipes" / "minilm.yaml"
    context = make_context(load_recipe(path), path, tmp_path_factory.mktemp("minilm"), minilm_build_root)
    return Built(context, build(context))


@pytest.fixture(scope="session")
def minilm_server(minilm: Built, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    """tritonserver with minilm, on free ports."""
    log = tmp_path_factory.mktemp("log") / "minilm-server.log"
    options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0)
    with log.open("wb") as sink, TritonServer(minilm.context.repository, options, log_sink=sink) as server:
        yield server


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Callable[[int], Path]]:
    """Mount a real file system of so many MiB, that a test can fill."""
    mounts: list[Path] = []

    def mount(mebibytes: int) -> Path:
        if os.geteuid() != 0:
            pytest.skip("only root can mount a tmpfs")
        folder = Path(tempfile.mkdtemp(dir=tmp_path))
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            pytest.skip(f"no tmpfs can be mounted: {done.stderr.strip()}")
        mounts.append(folder)
        return folder

    yield mount
    for folder in mounts:
        subprocess.run(["umount", str(folder)], check=True)


_CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture(scope="session")
def tiny_generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a Llama of two layers that babbles: random weights, a real tokenizer and template."""
    import torch
    import transformers

    tokenizer = trained_tokenizer("Qwen2Tokenizer")
    tokenizer.chat_template = _CHAT_TEMPLATE
    config = transformers.LlamaConfig(
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        intermediate_size=128,
        vocab_size=len(tokenizer),
        max_position_embeddings=512,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    torch.manual_seed(7)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for weights in model.parameters():  # wide enough that the likeliest token stands out
            weights.add_(torch.randn_like(weights) * 0.2)
    folder = tmp_path_factory.mktemp("tiny_generator")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_generation_repository(tiny_generator: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with that Llama, in float16, as ``tinygen``."""
    from build_engines.pipeline import any_context

    recipe = Recipe.model_validate(
        {"name": "tinygen", "model": str(tiny_generator), "task": "generation", "threads": {"engine": 1}}
    )
    repository = tmp_path_factory.mktemp("tinygen_repository")
    build(any_context(recipe, Path("tinygen.yaml"), repository, tmp_path_factory.mktemp("tinygen_build")))
    return repository
