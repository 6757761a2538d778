"""DeepSeek Coder: https://huggingface.co/deepseek-ai/deepseek-coder-6.7b-instruct"""

NAME = "deepseek"

TEMPLATE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{{ message['content'] }}
{%- elif message['role'] == 'assistant' -%}
{{ '### Response:\\n' + message['content'] + '\\n<|EOT|>\\n' }}
{%- else -%}
{{ '### Instruction:\\n' + message['content'] + '\\n' }}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '### Response:\\n' }}
{%- endif -%}
"""
