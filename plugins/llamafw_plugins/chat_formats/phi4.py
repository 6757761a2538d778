"""Phi-4: https://huggingface.co/microsoft/phi-4"""

NAME = "phi4"

TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message['role'] + '<|im_sep|>' + message['content'] + '<|im_end|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|im_start|>assistant<|im_sep|>' }}
{%- endif -%}
"""
