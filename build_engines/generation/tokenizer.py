"""The tokenizer of a generator: for the backend, and as a graph for OpenVINO GenAI."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from build_engines.generation.facts import ModelFacts
from build_engines.model_files import ModelFiles
from build_engines.repository.tokenizer import load_fast_tokenizer
from tritonforge.errors import ExportError, ModelFilesError, first_line

_SERVED = ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")


def write_served_tokenizer(files: ModelFiles, facts: ModelFacts, folder: Path) -> Any:
    """Write ``tokenizer.json``, ``tokenizer_config.json`` and, if there is one, ``chat_template.jinja``.

    Returns:
        transformers' tokenizer.

    Raises:
        ModelFilesError: If it gives ids that the model does not embed.
    """
    tokenizer = load_fast_tokenizer(files.folder)
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= facts.vocab_size:
        raise ModelFilesError(
            f"the tokenizer gives ids up to {largest}, and the model embeds {facts.vocab_size}",
            where=str(files.folder),
            mend="use the tokenizer that the model was trained with",
        )
    # Neither must cut or fill: lengths are the engine's business.
    tokenizer.backend_tokenizer.no_padding()
    tokenizer.backend_tokenizer.no_truncation()
    tokenizer.save_pretrained(folder)
    for path in folder.iterdir():
        if path.name not in _SERVED:  # vocabularies in older forms
            path.unlink()
    return tokenizer


def convert_for_openvino(tokenizer: Any, folder: Path) -> None:
    """Write ``openvino_tokenizer`` and ``openvino_detokenizer``.

    Raises:
        ExportError: If it has parts that OpenVINO's tokenizers lack.
    """
    import openvino as ov
    from openvino_tokenizers import convert_tokenizer

    try:
        there, back = convert_tokenizer(tokenizer, with_detokenizer=True)
    except Exception as error:  # of any class, by the part that is not known
        raise ExportError(
            f"the tokenizer cannot be converted for OpenVINO: {first_line(error)}",
            where="tokenize",
            mend="use a model with a byte-pair, unigram or WordPiece tokenizer",
        ) from error
    ov.save_model(there, folder / "openvino_tokenizer.xml")
    ov.save_model(back, folder / "openvino_detokenizer.xml")
