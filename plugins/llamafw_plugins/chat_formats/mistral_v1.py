"""Mistral's v1 (7B v0.1 and v0.2, Mixtral).

https://docs.mistral.ai/cookbooks/concept-deep-dive-tokenization-chat_templates

A system message goes, with an empty line, before the next user's words.
"""

NAME = "mistral-v1"

TEMPLATE = """\
{{- bos_token -}}
{%- set ns = namespace(system='') -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{%- set ns.system = ns.system + message['content'] + '\\n\\n' -%}
{%- elif message['role'] == 'assistant' -%}
{{ ' ' + message['content'] + eos_token }}
{%- else -%}
{{ ' [INST] ' + ns.system + message['content'] + ' [/INST]' }}
{%- set ns.system = '' -%}
{%- endif -%}
{%- endfor -%}
{%- if ns.system -%}
{{ raise_exception('a system message needs a user message after it') }}
{%- endif -%}
"""
