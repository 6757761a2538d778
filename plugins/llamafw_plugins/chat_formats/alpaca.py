"""Alpaca: https://github.com/tatsu-lab/stanford_alpaca#data-release

A system message replaces the introduction. Answers end with EOS, as in the training data.
"""

NAME = "alpaca"

TEMPLATE = """\
{{- bos_token -}}
{%- if not messages or messages[0]['role'] != 'system' -%}
{{ 'Below is an instruction that describes a task. '
   'Write a response that appropriately completes the request.\\n\\n' }}
{%- endif -%}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{{ message['content'] + '\\n\\n' }}
{%- elif message['role'] == 'assistant' -%}
{{ '### Response:\\n' + message['content'] + eos_token + '\\n\\n' }}
{%- else -%}
{{ '### Instruction:\\n' + message['content'] + '\\n\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '### Response:\\n' }}
{%- endif -%}
"""
