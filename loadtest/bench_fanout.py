"""What does the fan-out of the TensorRT path cost? The same engine with it and without, on one server.

::

    python -m loadtest.bench_fanout --model minilm

On the TensorRT path the rows of a request go to the engine one by one (``docs/tensorrt.md``). To measure
that without a GPU, the model is taken from a repository that was built for the CPU, where it needs no
fan-out, and served twice: as it is, and with the fan-out between tokenizer and engine. A client asks the
two in turns, so that a noisy machine is as noisy for both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from google.protobuf import text_format
from rich.console import Console
from rich.table import Table
from tritonclient.grpc import model_config_pb2 as pb

from build_engines.engines import CompiledEngine
from build_engines.repository.assemble import link_or_copy, write_backend
from build_engines.repository.config import LABELS_FILE, ensemble_config, to_pbtxt
from build_engines.repository.names import ModelNames
from build_engines.repository.tensorrt_config import fanout_config
from build_engines.spec import ModelSpec
from clients import Client
from loadtest.corpus import DEFAULT_MIX, LengthMix, make_texts
from tritonforge.recipe import Recipe
from tritonforge.server import ServerOptions, TritonServer
from tritonforge.server.repository import MANIFEST

PREFIX = "fan_"


def add_fanout(source: Path, model: str, target: Path) -> str:
    """Put a copy of a model that was built for the CPU into a repository, with the fan-out before its engine.

    Args:
        source: Repository that holds the model.
        model: Its name.
        target: Repository to write to.

    Returns:
        Name of the new ensemble.
    """
    plain = ModelNames(model)
    facts = json.loads((source / model / MANIFEST).read_text(encoding="utf-8"))["build"]
    config = text_format.Parse((source / plain.engine / "config.pbtxt").read_text(), pb.ModelConfig())
    spec = _spec(config, source / model / LABELS_FILE)
    recipe = Recipe.model_validate(facts["recipe"]).model_copy(update={"name": PREFIX + model})
    names = ModelNames(recipe.name, fans_out=True)
    engine, precision, layout = (facts[key] for key in ("engine", "precision", "layout"))
    compiled = CompiledEngine(engine, precision, layout, source, facts["model_file"])
    copy_model(source / plain.tokenizer, target / names.tokenizer)
    copy_model(source / plain.engine, target / names.engine)
    made = {
        names.fanout: fanout_config(recipe, spec, compiled),
        names.ensemble: ensemble_config(recipe, spec, names),
    }
    for name, made_config in made.items():
        (target / name / "1").mkdir(parents=True)
        (target / name / "config.pbtxt").write_text(to_pbtxt(made_config), encoding="utf-8")
        if spec.labels:
            link_or_copy(source / model / LABELS_FILE, target / name / LABELS_FILE)
    write_backend(target / names.fanout / "1", "fanout")
    return recipe.name


def copy_model(source: Path, target: Path) -> None:
    """Copy a model's folder under another name, as hard links where possible."""
    for path in sorted(source.rglob("*")):
        copy = target / path.relative_to(source)
        if path.is_dir():
            copy.mkdir(parents=True, exist_ok=True)
        elif path.name == "config.pbtxt":
            config = text_format.Parse(path.read_text(encoding="utf-8"), pb.ModelConfig())
            config.name = target.name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(to_pbtxt(config), encoding="utf-8")
        else:
            link_or_copy(path, copy)


def _spec(engine: Any, labels: Path) -> ModelSpec:
    """What the configs need to know of a model, read from that of its engine."""
    value = {key: parameter.string_value for key, parameter in engine.parameters.items()}
    return ModelSpec(
        task="embedding" if value["task"] == "embedding" else "classification",
        pooling="mean",
        normalize=False,
        activation="softmax",
        head_pooling="cls",
        labels=tuple(labels.read_text(encoding="utf-8").splitlines()) if labels.is_file() else (),
        width=engine.output[-1].dims[0],
        max_length=int(value["max_length"]),
        vocab_size=int(value["vocab_size"]),
        pad_token_id=int(value["pad_token_id"]),
    )


def measure(
    server: TritonServer, models: tuple[str, str], texts: list[str], batch: int, clients: int, rounds: int
) -> dict[str, list[float]]:
    """Texts a second of each model, round by round, in turns.

    Args:
        server: Serves both.
        models: Their names; both embed.
        texts: What is asked.
        batch: Texts of a request.
        clients: Requests in flight.
        rounds: Turns; one more is made before them and not counted.
    """
    chunks = [texts[start : start + batch] for start in range(0, len(texts), batch)]
    rates: dict[str, list[float]] = {model: [] for model in models}
    for number in range(rounds + 1):
        for model in models:
            with Client(server.grpc_url, model) as client, ThreadPoolExecutor(clients) as pool:
                client.embed(chunks[0])
                start = time.perf_counter()
                for call in [pool.submit(client.embed, chunk) for chunk in chunks]:
                    call.result()
                if number:
                    rates[model].append(len(texts) / (time.perf_counter() - start))
    return rates


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--repository", type=Path, default=Path("model_repository"))
    parser.add_argument("--model", default="minilm", help="an embedding model, built for the CPU")
    parser.add_argument("--texts", type=int, default=2000, help="texts a round")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 8, 32], help="texts in a request")
    parser.add_argument("--in-flight", type=int, default=64, help="texts in flight, in any requests")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    texts = make_texts(given.texts, LengthMix.parse(DEFAULT_MIX))
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        for model in ModelNames(given.model).all:
            copy_model(given.repository / model, repository / model)
        models = (given.model, add_fanout(given.repository, given.model, repository))
        options = ServerOptions(http_port=0, grpc_port=0, metrics_port=0, log_info=False)
        with TritonServer(repository, options) as server:
            rows = []
            for batch in given.batches:
                in_flight = max(1, given.in_flight // batch)
                rates = measure(server, models, texts, batch, in_flight, given.rounds)
                plain, fanned = (statistics.median(rates[model]) for model in models)
                ratios = [f / p for p, f in zip(rates[models[0]], rates[models[1]], strict=True)]
                rows.append(
                    {
                        "texts_in_a_request": batch,
                        "requests_in_flight": in_flight,
                        "direct_texts_per_second": round(plain, 1),
                        "fanout_texts_per_second": round(fanned, 1),
                        "ratio": round(statistics.median(ratios), 3),
                        "ratios": [round(ratio, 3) for ratio in ratios],
                    }
                )
    if given.json:
        json.dump(rows, sys.stdout, indent=2)
        return
    table = Table(title="texts a second, median of the rounds")
    for header in ("texts in a request", "requests in flight", "direct", "with fan-out", "ratio"):
        table.add_column(header, justify="right")
    for row in rows:
        table.add_row(*(str(row[key]) for key in list(row)[:5]))
    Console().print(table)


if __name__ == "__main__":
    main()
