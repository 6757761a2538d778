"""Llama 2 chat: https://www.llama.com/docs/model-cards-and-prompt-formats/meta-llama-2/"""

NAME = "llama2"

TEMPLATE = """\
{%- set ns = namespace(system='') -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{%- set ns.system = ns.system + '<<SYS>>\\n' + message['content'] | trim + '\\n<</SYS>>\\n\\n' -%}
{%- elif message['role'] == 'assistant' -%}
{{ ' ' + message['content'] | trim + ' ' + eos_token }}
{%- else -%}
{{ bos_token + '[INST] ' + ns.system + message['content'] | trim + ' [/INST]' }}
{%- set ns.system = '' -%}
{%- endif -%}
{%- endfor -%}
{%- if ns.system -%}
{{ raise_exception('a system message needs a user message after it') }}
{%- endif -%}
"""
