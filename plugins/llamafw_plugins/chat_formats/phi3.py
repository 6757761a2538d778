"""Phi-3: https://huggingface.co/microsoft/Phi-3-mini-4k-instruct"""

NAME = "phi3"

TEMPLATE = """\
{%- for message in messages -%}
{{ '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|assistant|>\\n' }}
{%- endif -%}
"""
