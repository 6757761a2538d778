"""Command R: https://docs.cohere.com/docs/command-r-hf"""

NAME = "command-r"

TEMPLATE = """\
{{- bos_token -}}
{%- set tokens = {'system': 'SYSTEM', 'assistant': 'CHATBOT'} -%}
{%- for message in messages -%}
{%- set token = tokens.get(message['role'], 'USER') -%}
{{ '<|START_OF_TURN_TOKEN|><|' + token + '_TOKEN|>' + message['content'] | trim + '<|END_OF_TURN_TOKEN|>' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{ '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' }}
{%- endif -%}
"""
