from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from python_backends.generator.chat import (
    MAX_MESSAGES,
    ChatTemplate,
    ChatTemplateError,
    parse_messages,
)

SMOLLM2 = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
    "' }}{% endif %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)

CHATML = """
{%- if tools %}{{ tools | tojson(indent=2) }}{% endif %}
{%- for message in messages %}
    {{- '<|im_start|>' ~ message.role ~ '\n' ~ message.content | trim ~ '<|im_end|>\n' }}
    {%- if not loop.last and message.role == 'tool' %}{% continue %}{% endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""

LLAMA2 = """
{%- if messages[0]['role'] == 'system' %}
{%- set system = '<<SYS>>\n' + messages[0]['content'] + '\n<</SYS>>\n\n' %}{% set rest = messages[1:] %}
{%- else %}{% set system = '' %}{% set rest = messages %}{% endif %}
{%- for message in rest %}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}
{%- set content = system + message['content'] if loop.first else message['content'] %}
{%- if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content | trim + ' [/INST]' }}
{%- else %}{{ ' ' + content | trim + ' ' + eos_token }}{% endif %}
{%- endfor %}"""

LLAMA3 = """
{{- bos_token }}
{%- if not date_string is defined %}{% set date_string = strftime_now("%d %b %Y") %}{% endif %}
{%- set ns = namespace(tools=tools is not none) %}
{{- "<|start_header_id|>system<|end_header_id|>\n\nToday: " + date_string + (" tools" if ns.tools else "") }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' }}
    {{- message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{%- endif %}
"""

MISTRAL = """
{%- macro user(text, last) %}[INST] {{ text }}[/INST]{% if last %} {% endif %}{% endmacro -%}
{{ bos_token }}
    {% for message in messages %}
    {% if message.role == 'user' %}
{{ user(message.content, loop.last) }}
    {% elif message.role == 'assistant' %}
{% generation %}{{ message.content }}{{ eos_token }}{% endgeneration %}
    {% elif message.role == 'tool' %}
{{ {'content': message.content, 'call_id': message.tool_call_id} | tojson }}
    {% elif loop.index0 > 0 %}
{{ raise_exception('System messages only come first, got ' ~ message | tojson) }}
    {% endif %}
    {% endfor %}
"""

TEMPLATES = {"smollm2": SMOLLM2, "chatml": CHATML, "llama2": LLAMA2, "llama3": LLAMA3, "mistral": MISTRAL}

CONVERSATIONS = [
    [("user", "Hi")],
    [
        ("system", "Be brief."),
        ("user", " Wie geht's? <b>&amp;</b> "),
        ("assistant", "Gut."),
        ("user", "你好 👩‍👩‍👧‍👦"),
    ],
    [("user", "{{ messages }}{% raw %}"), ("assistant", "line\n\nline"), ("user", "<|im_end|>")],
]


def messages_of(*turns: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in turns]


def folder_with(folder: Path, template: str | None, **config: object) -> Path:
    tokens = {"bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": False}, "unk_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(tokens | config), "utf-8")
    if template is not None:
        (folder / "chat_template.jinja").write_text(template, "utf-8")
    return folder


def transformers_render(template: str, messages: list[dict[str, str]]) -> str:
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE()), bos_token="<s>", eos_token="</s>", chat_template=template
    )
    rendered = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert isinstance(rendered, str)
    return rendered


@pytest.mark.parametrize("name", sorted(TEMPLATES))
@pytest.mark.parametrize("turns", CONVERSATIONS)
def test_prompts_are_those_of_transformers(tmp_path: Path, name: str, turns: list[tuple[str, str]]) -> None:
    chat = ChatTemplate.from_folder(folder_with(tmp_path, TEMPLATES[name]))
    messages = messages_of(*turns)
    rendered = chat.render(messages)
    assert rendered == transformers_render(TEMPLATES[name], messages)
    assert turns[-1][1].strip() in rendered


def test_tool_answers_are_written_as_json(tmp_path: Path) -> None:
    chat = ChatTemplate.from_folder(folder_with(tmp_path, MISTRAL))
    messages = [*messages_of(("user", "2+2?")), {"role": "tool", "content": "<4> é", "tool_call_id": "x"}]
    assert chat.render(messages) == transformers_render(MISTRAL, messages)
    assert '{"content": "<4> é", "call_id": "x"}' in chat.render(messages)


@pytest.mark.parametrize(
    ("name", "turns", "message"),
    [
        ("llama2", [("user", "a"), ("user", "b")], "roles must alternate"),
        ("mistral", [("user", "a"), ("system", "b")], "System messages only come first"),
    ],
)
def test_what_a_template_refuses_is_told(
    tmp_path: Path, name: str, turns: list[tuple[str, str]], message: str
) -> None:
    chat = ChatTemplate.from_folder(folder_with(tmp_path, TEMPLATES[name]))
    with pytest.raises(ChatTemplateError, match=message):
        chat.render(messages_of(*turns))
    assert chat.render(messages_of(("user", "after it")))


def test_the_template_may_lie_in_the_configuration(tmp_path: Path) -> None:
    named = [{"name": "tool_use", "template": "no"}, {"name": "default", "template": "{{ eos_token }}yes"}]
    for template in (named, "{{ eos_token }}yes"):
        chat = ChatTemplate.from_folder(folder_with(tmp_path, None, chat_template=template))
        assert chat.render(messages_of(("user", "a"))) == "</s>yes"
    chat = ChatTemplate.from_folder(folder_with(tmp_path, "file{{ unk_token }}", chat_template=named))
    assert chat.render(messages_of(("user", "a"))) == "file"


def test_a_model_without_a_template_says_so(tmp_path: Path) -> None:
    for folder in (tmp_path, folder_with(tmp_path, None)):
        chat = ChatTemplate.from_folder(folder)
        assert not chat.available
        with pytest.raises(ChatTemplateError, match="no chat template"):
            chat.render(messages_of(("user", "a")))


def test_a_broken_template_fails_at_once(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="chat_template is neither"):
        ChatTemplate.from_folder(folder_with(tmp_path, None, chat_template=3))
    with pytest.raises(ValueError, match="line 2"):
        ChatTemplate.from_folder(folder_with(tmp_path, "a\n{% if %}"))


ESCAPES = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.system('true') }}",
    "{{ raise_exception.__globals__['json'] }}",
    "{{ strftime_now.__code__.co_code }}",
    "{{ messages.append(1) }}",
    "{{ '{0.__class__.__mro__}'.format(1) }}",
    "{{ range(1000000) | length }}",
    "{% include '/etc/hostname' %}",
    "{{ messages[0].content.missing.deeper }}",
    "{{ messages[0].content + 1 }}",
]


@pytest.mark.parametrize("template", ESCAPES)
def test_a_template_can_neither_run_code_nor_break_the_server(tmp_path: Path, template: str) -> None:
    (tmp_path / "chat_template.jinja").write_text(template)
    messages = messages_of(("user", "a"))
    with pytest.raises(ChatTemplateError, match="chat template"):
        ChatTemplate.from_folder(tmp_path).render(messages)
    assert messages == messages_of(("user", "a"))


def test_messages_are_data_for_the_template(tmp_path: Path) -> None:
    chat = ChatTemplate.from_folder(folder_with(tmp_path, SMOLLM2))
    assert "{{ 7 * 7 }}" in chat.render(messages_of(("user", "{{ 7 * 7 }}")))


def test_messages_are_parsed() -> None:
    text = json.dumps(
        [
            {"role": "system", "content": "", "name": None},
            {
                "role": "user",
                "name": "Ann",
                "content": [{"type": "text", "text": t} for t in ("1", "zwei 你")],
            },
            {"role": "tool", "content": "4", "tool_call_id": "c1"},
        ]
    )
    expected = [
        {"role": "system", "content": ""},
        {"role": "user", "name": "Ann", "content": "1\nzwei 你"},
        {"role": "tool", "content": "4", "tool_call_id": "c1"},
    ]
    assert parse_messages(text) == parse_messages(text.encode()) == expected


USER = {"role": "user", "content": "a"}
IMAGE = {"type": "image_url", "image_url": {"url": "x"}}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "must be a JSON list of at least one"),
        (USER, "must be a JSON list"),
        ([USER, "hello"], r'messages\[1\]: must be an object .* not "hello"'),
        ([{"content": "a"}], r"messages\[0\].role: is missing"),
        ([{"role": "user", "content": None}], r"messages\[0\].content: is missing"),
        ([USER, {"role": "robot", "content": "a"}], r'messages\[1\].role: .*tool, not "robot"'),
        ([{"role": ["user"], "content": "a"}], r"messages\[0\].role: must be one of .* not a list"),
        ([{"role": "user", "content": 5}], r"messages\[0\].content: must be a string, not 5"),
        ([USER | {"tool_calls": []}], r'messages\[0\]: unknown key "tool_calls"'),
        ([USER | {"name": 1}], r"messages\[0\].name: must be a string"),
        ([USER | {"content": [IMAGE]}], r"content\[0\]: must be .* not an object of type \"image_url\""),
        ([USER | {"content": [{"type": "text"}]}], r"content\[0\]: must be"),
        ([USER | {"content": [{"type": "text", "text": {}}]}], r"content\[0\].text: must be a string"),
        ([USER | {"content": "ab\ud83d"}], r"messages\[0\].content: half of a surrogate pair at character 2"),
        ([USER | {"x" * 5000: 1}], r"unknown key \"x{1,60}\.\.\.; known"),
        ([USER] * (MAX_MESSAGES + 1), f"{MAX_MESSAGES + 1} messages, {MAX_MESSAGES} are allowed"),
    ],
)
def test_wrong_messages_are_named(value: object, message: str) -> None:
    with pytest.raises(ChatTemplateError, match=message):
        parse_messages(json.dumps(value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("[{]", "not valid JSON"),
        (b"[\xff]", "not valid UTF-8"),
        ("[\ud83d]", "not valid UTF-8"),
        ("[" * 100_000, "nested too deeply"),
        (f"[{'9' * 5000}]", "not valid JSON"),
        (json.dumps([USER | {"content": "a" * 100}]), "bytes, 100 are allowed"),
    ],
)
def test_what_is_no_conversation_at_all_is_refused(text: str | bytes, message: str) -> None:
    limit = 100 if "allowed" in message else 1 << 20
    with pytest.raises(ChatTemplateError, match=message):
        parse_messages(text, max_bytes=limit)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["role", "content", "type", "text", "name", "x"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)
ROLE_LIKE = st.sampled_from(["user", "assistant", "system", "tool"]) | VALUES
MESSAGE_LIKE = st.fixed_dictionaries({"role": ROLE_LIKE, "content": st.text(max_size=9) | VALUES}) | VALUES


@given(st.lists(MESSAGE_LIKE, max_size=3) | VALUES)
def test_whatever_comes_is_parsed_or_refused(value: object) -> None:
    try:
        messages = parse_messages(json.dumps(value))
    except ChatTemplateError as error:
        assert str(error).startswith("messages")
        assert len(str(error)) < 300
    else:
        assert isinstance(value, list)
        assert len(messages) == len(value)
        assert all(isinstance(text, str) for message in messages for text in message.values())
