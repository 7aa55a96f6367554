"""Messages of a conversation become the prompt that the model was trained on. Knows no Triton.

The model's own chat template does it, as ``apply_chat_template`` of transformers would, with nothing of
transformers. It comes with the model and is trusted as little as possible: jinja2's sandbox gives it no
way to files, attributes of Python or other code, and messages are data to it, never template. What bounds its
work is the number and size of the messages. A template that is written to waste time or memory
(``'x' * 10 ** 10``, loops in loops) still can: whoever installs a model must trust it that far.

Text in a message that looks like a special token (``<|im_end|>``) is rendered as it is, as transformers does;
the tokenizer will then read it as that token.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

ROLES = ("system", "user", "assistant", "tool")
KEYS = ("role", "content", "name", "tool_call_id")
MAX_MESSAGES = 1024
MAX_BYTES = 1 << 20
TEMPLATE_FILE = "chat_template.jinja"
CONFIG_FILE = "tokenizer_config.json"
SPECIAL_TOKENS = tuple(f"{kind}_token" for kind in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))


class ChatTemplateError(ValueError):
    """These messages cannot become a prompt of this model; the text says which message and why."""


class ChatTemplate:
    """A model's chat template, compiled.

    Args:
        source: The template; None where the model has none, and then no messages can be rendered.
        tokens: Special tokens by the names that templates use, such as ``bos_token``.

    Raises:
        ValueError: The template is not valid jinja2.
    """

    def __init__(self, source: str | None, tokens: Mapping[str, str]) -> None:
        """Compile the template."""
        self._tokens = dict(tokens)
        try:
            self._template = None if source is None else _environment().from_string(source)
        except TemplateSyntaxError as error:
            raise ValueError(f"chat template, line {error.lineno}: {error.message}") from error

    @classmethod
    def from_folder(cls, folder: Path) -> ChatTemplate:
        """Read ``chat_template.jinja`` or the template in ``tokenizer_config.json``, and the special tokens.

        Args:
            folder: The model's version folder.

        Raises:
            ValueError: One of the files cannot be understood.
        """
        config_file = folder / CONFIG_FILE
        config: dict[str, Any] = json.loads(config_file.read_text("utf-8")) if config_file.is_file() else {}
        template_file = folder / TEMPLATE_FILE
        source = config.get("chat_template")
        if template_file.is_file():
            source = template_file.read_text("utf-8")
        elif isinstance(source, list):
            source = {named["name"]: named["template"] for named in source}.get("default")
        if not isinstance(source, str | None):
            raise ValueError(f"{CONFIG_FILE}: chat_template is neither a text nor a list of named ones")
        tokens = {name: _token_text(config.get(name)) for name in SPECIAL_TOKENS}
        return cls(source, {name: token for name, token in tokens.items() if token is not None})

    @property
    def available(self) -> bool:
        """Whether the model has a template."""
        return self._template is not None

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Make the prompt, up to where the assistant's answer begins.

        It holds the special tokens already: tokenize it with ``add_special_tokens=False``.

        Args:
            messages: As :func:`parse_messages` gives them.

        Raises:
            ChatTemplateError: The model has no template, or its template refuses these messages.
        """
        if self._template is None:
            raise ChatTemplateError("messages: the model has no chat template; send text_input instead")
        copies = [dict(message) for message in messages]
        try:
            return self._template.render(
                messages=copies, tools=None, documents=None, add_generation_prompt=True, **self._tokens
            )
        except TemplateError as error:
            raise ChatTemplateError(f"messages: the model's chat template refuses them: {error}") from error
        except Exception as error:  # whatever a template runs into concerns only this request
            kind = type(error).__name__
            raise ChatTemplateError(f"messages: the model's chat template fails: {kind}: {error}") from error


def parse_messages(
    json_text: str | bytes, *, max_messages: int = MAX_MESSAGES, max_bytes: int = MAX_BYTES
) -> list[dict[str, str]]:
    """Check a conversation that a client sent.

    Keys besides ``role`` and ``content`` are ``name`` and ``tool_call_id``, given to the template; a key that
    is null counts as absent, and all others are refused rather than dropped in silence. Content is a string
    or a list of parts ``{"type": "text", "text": ...}``, joined by newlines as vLLM does.

    Args:
        json_text: A JSON list of objects; bytes are UTF-8.
        max_messages: Messages allowed.
        max_bytes: Size of the whole that is allowed, in UTF-8.

    Raises:
        ChatTemplateError: Names the message and the key that is wrong.
    """
    try:
        data = json_text if isinstance(json_text, bytes) else json_text.encode()
        text = data.decode()
    except UnicodeError as error:
        raise ChatTemplateError("messages: not valid UTF-8") from error
    if len(data) > max_bytes:
        raise ChatTemplateError(f"messages: {len(data)} bytes, {max_bytes} are allowed")
    try:
        conversation = json.loads(text)
    except RecursionError as error:
        raise ChatTemplateError("messages: nested too deeply") from error
    except ValueError as error:
        raise ChatTemplateError(f"messages: not valid JSON: {error}") from error
    if not isinstance(conversation, list) or not conversation:
        raise ChatTemplateError("messages: must be a JSON list of at least one object with role and content")
    if len(conversation) > max_messages:
        raise ChatTemplateError(f"messages: {len(conversation)} messages, {max_messages} are allowed")
    return [_parse_message(message, f"messages[{index}]") for index, message in enumerate(conversation)]


def _parse_message(message: object, where: str) -> dict[str, str]:
    if not isinstance(message, dict):
        raise ChatTemplateError(f"{where}: must be an object with role and content, not {_shown(message)}")
    given = {key: value for key, value in message.items() if value is not None}
    for key in given:
        if key not in KEYS:
            raise ChatTemplateError(f"{where}: unknown key {_shown(key)}; known are {', '.join(KEYS)}")
    for key in ("role", "content"):
        if key not in given:
            raise ChatTemplateError(f"{where}.{key}: is missing")
    if given["role"] not in ROLES:
        roles = ", ".join(ROLES)
        raise ChatTemplateError(f"{where}.role: must be one of {roles}, not {_shown(given['role'])}")
    if isinstance(given["content"], list):
        parts = enumerate(given["content"])
        given["content"] = "\n".join(_part_text(part, f"{where}.content[{index}]") for index, part in parts)
    return {key: _checked_text(value, f"{where}.{key}") for key, value in given.items()}


def _part_text(part: object, where: str) -> str:
    if not isinstance(part, dict) or part.get("type") != "text" or part.keys() != {"type", "text"}:
        served = '{"type": "text", "text": ...}'
        raise ChatTemplateError(f"{where}: must be {served}, not {_shown(part)}")
    return _checked_text(part["text"], f"{where}.text")


def _checked_text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise ChatTemplateError(f"{where}: must be a string, not {_shown(value)}")
    try:
        value.encode()
    except UnicodeEncodeError as error:  # JSON can write half of a surrogate pair
        raise ChatTemplateError(f"{where}: half of a surrogate pair at character {error.start}") from error
    return value


def _shown(value: object, longest: int = 60) -> str:
    """A wrong value for a message, short whatever a client sent."""
    if isinstance(value, dict):
        kind = value.get("type")
        return f"an object of type {_shown(kind)}" if isinstance(kind, str) else "an object"
    if isinstance(value, list):
        return "a list"
    text = json.dumps(value[:longest] if isinstance(value, str) else value)
    return text if len(text) <= longest else f"{text[:longest]}..."


def _token_text(token: object) -> str | None:
    """Text of a special token as ``tokenizer_config.json`` writes it: a string, or an object around one."""
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else None


class _GenerationTag(Extension):
    """``{% generation %}`` marks the assistant's text for training; here its content is just content."""

    tags = {"generation"}  # noqa: RUF012 (jinja2 declares it so)

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_content"), [], [], body).set_lineno(line)

    def _content(self, caller: Callable[[], str]) -> str:
        return caller()


def _environment() -> ImmutableSandboxedEnvironment:
    """The environment that transformers renders chat templates in."""
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_GenerationTag, "jinja2.ext.loopcontrols"]
    )
    environment.filters["tojson"] = _to_json  # jinja2's own escapes for HTML
    environment.globals.update(
        raise_exception=_raise_exception, strftime_now=lambda form: datetime.now().strftime(form)
    )
    return environment


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    raise TemplateError(message)
