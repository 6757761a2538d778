"""Mistral's v3 (7B v0.3): https://docs.mistral.ai/cookbooks/concept-deep-dive-tokenization-chat_templates"""

NAME = "mistral-v3"

TEMPLATE = """\
{{- bos_token -}}
{%- set ns = namespace(system='') -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{%- set ns.system = ns.system + message['content'] + '\\n\\n' -%}
{%- elif message['role'] == 'assistant' -%}
{{ ' ' + message['content'] + eos_token }}
{%- else -%}
{{ '[INST] ' + ns.system + message['content'] + '[/INST]' }}
{%- set ns.system = '' -%}
{%- endif -%}
{%- endfor -%}
{%- if ns.system -%}
{{ raise_exception('a system message needs a user message after it') }}
{%- endif -%}
"""
