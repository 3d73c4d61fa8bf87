import dataclasses
import json

import pytest

from ofmu_jax.data import read_tokenizer, render_chat, train_tokenizer, write_tokenizer
from ofmu_jax.errors import InputError

TOKENIZER = train_tokenizer(["the quick brown fox"], 300)

# In the manner of four families of models.
BRACKETS = """\
{% for m in messages %}
    {% if m['role'] == 'user' %}
{{ bos_token + '[INST] ' + m['content'].strip() + ' [/INST]' }}
    {%- elif m['role'] == 'assistant' %}
{{ ' ' + m['content'] + ' ' + eos_token }}
    {%- else %}
        {{- raise_exception('no role ' + m['role']) }}
    {%- endif %}
{% endfor %}
"""
HEADERS = (
    "{{- bos_token }}{% for m in messages %}"
    "{{- '<|head|>' + m.role + '<|/head|>\n\n' + m.content | trim + '<eos>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{- '<|head|>assistant<|/head|>\n\n' }}{% endif %}"
)
CHATML = """\
{%- if messages[0].role != 'system' %}
    {{- '<|im|>system\nBe brief.<eos>\n' }}
{%- endif %}
{%- for m in messages %}
    {%- if tools is not none %}{{ 'tools' }}{% endif %}
    {{- '<|im|>' + m.role + '\n' + m.content + '<eos>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im|>assistant\n' }}
{%- endif %}
"""
ZEPHYR = """\
{% for m in messages %}
{% if m['role'] == 'system' %}
    {% continue %}
{% endif %}
{% if m['role'] == 'assistant' %}
<|{{ m['role'] }}|>
{% generation %}{% set said = m['content'] %}{{ said }}{{ eos_token }}{% endgeneration %}{{ said }}

{% else %}
{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"""
FEATURES = (
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}"
    "{{ m | tojson }}{{ m | tojson(indent=2) }}"
    "{{ m | tojson(separators=(',', ':'), sort_keys=true, ensure_ascii=true) }}"
    "{% if loop.index == 2 %}{% break %}{% endif %}{% endfor %}{{ ns.n }}{{ dict(a=1) }}"
    "[{{ unk_token }}]{{ documents is none }}{{ tools is none }}"
)
TEMPLATES = {
    "brackets": BRACKETS,
    "headers": HEADERS,
    "chatml": CHATML,
    "zephyr": ZEPHYR,
    "features": FEATURES,
}
TURNS = [
    {"role": "user", "content": "  Who <b>said</b> & 'why', é?\n"},
    {"role": "assistant", "content": "Ada."},
    {"role": "user", "content": "And when?"},
    {"role": "assistant", "content": "In May. "},
]
SYSTEM = {"role": "system", "content": "Be kind."}


def _with(template):
    return dataclasses.replace(TOKENIZER, chat_template=template)


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("name", TEMPLATES)
def test_renders_as_transformers_does(tmp_path, name, count, prompt):
    transformers = pytest.importorskip("transformers", reason="compares with transformers")
    tokenizer = _with(TEMPLATES[name])
    write_tokenizer(tmp_path, tokenizer)
    peer = transformers.AutoTokenizer.from_pretrained(tmp_path)
    chats = [TURNS[:count]]
    if name != "brackets":
        chats.append([SYSTEM, *TURNS[:count]])
    for messages in chats:
        expected = peer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        assert render_chat(tokenizer, messages, prompt) == expected
    assert read_tokenizer(tmp_path).chat_template == TEMPLATES[name]


def test_every_day_is_the_same():
    assert render_chat(_with("{{ strftime_now('%d %b %Y') }}"), TURNS[:1]) == "26 Jul 2024"


def test_what_a_template_writes():
    rendered = render_chat(_with(BRACKETS), TURNS[:2])
    assert rendered == "<bos>[INST] Who <b>said</b> & 'why', é? [/INST] Ada. <eos>"
    asked = render_chat(_with(CHATML), [SYSTEM, TURNS[2]], add_generation_prompt=True)
    assert asked == "<|im|>system\nBe kind.<eos>\n<|im|>user\nAnd when?<eos>\n<|im|>assistant\n"
    listed = render_chat(_with("{{ messages | tojson }}"), [TURNS[0]])
    assert json.loads(listed) == [TURNS[0]] and "<b>" in listed and "é" in listed


@pytest.mark.parametrize(
    ("template", "complaint"),
    [
        (None, "the tokenizer has no chat template"),
        ("{{ raise_exception('roles must\nalternate') }}", "roles must alternate"),
        ("{% if %}", "Expected an expression"),
        ("{{ messages[9].content }}", "has no element 9"),
        ("{{ missing.field }}", "'missing' is undefined"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "'append' of 'list' object is unsafe"),
        ("{{ raise_exception.__globals__.keys() }}", "unsafe"),
        ("{% include '/etc/passwd' %}", "loader"),
    ],
)
def test_a_template_that_does_not_serve(template, complaint):
    with pytest.raises(InputError) as caught:
        render_chat(_with(template), TURNS)
    message = str(caught.value)
    assert complaint in message and "expected" in message and "\n" not in message


def test_a_template_sees_no_internals():
    template = "[{{ ''.__class__ }}{{ '{0.__class__}'.format(1) }}{{ raise_exception.__code__ }}]"
    assert render_chat(_with(template), TURNS) == "[]"
