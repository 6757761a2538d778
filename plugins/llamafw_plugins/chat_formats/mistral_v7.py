"""Mistral's v7 (Large 2411): https://huggingface.co/mistralai/Mistral-Large-Instruct-2411"""

NAME = "mistral-v7"

TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{{ '[SYSTEM_PROMPT] ' + message['content'] + '[/SYSTEM_PROMPT]' }}
{%- elif message['role'] == 'assistant' -%}
{{ ' ' + message['content'] + eos_token }}
{%- else -%}
{{ '[INST] ' + message['content'] + '[/INST]' }}
{%- endif -%}
{%- endfor -%}
"""
