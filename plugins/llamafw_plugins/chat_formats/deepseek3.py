"""DeepSeek-V3: https://huggingface.co/deepseek-ai/DeepSeek-V3

All system messages are written first.
"""

NAME = "deepseek3"

TEMPLATE = """\
{{- bos_token -}}
{{- messages | selectattr('role', 'equalto', 'system') | map(attribute='content') | join('\\n\\n') -}}
{%- for message in messages -%}
{%- if message['role'] == 'assistant' -%}
{{ '<｜Assistant｜>' + message['content'] + '<｜end▁of▁sentence｜>' }}
{%- elif message['role'] != 'system' -%}
{{ '<｜User｜>' + message['content'] }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<｜Assistant｜>' }}
{%- endif -%}
"""
