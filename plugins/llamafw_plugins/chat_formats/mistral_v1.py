"""Mistral v1, the format of Mistral 7B v0.1 and v0.2 and of Mixtral.

https://docs.mistral.ai/cookbooks/concept-deep-dive-tokenization-chat_templates
"""

from llamafw_plugins.chat_formats.system_in_user import system_in_user_template

NAME = "mistral-v1"

TEMPLATE = system_in_user_template(
    start="{{- bos_token -}}",
    system=r"message['content'] + '\n\n'",
    user="' [INST] ' + ns.system + message['content'] + ' [/INST]'",
    assistant="' ' + message['content'] + eos_token",
)
