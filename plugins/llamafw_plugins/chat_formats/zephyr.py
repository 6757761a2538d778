"""Zephyr: https://huggingface.co/HuggingFaceH4/zephyr-7b-beta"""

NAME = "zephyr"

TEMPLATE = """\
{%- for message in messages -%}
{{ '<|' + message['role'] + '|>\\n' + message['content'] + eos_token + '\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|assistant|>\\n' }}
{%- endif -%}
"""
