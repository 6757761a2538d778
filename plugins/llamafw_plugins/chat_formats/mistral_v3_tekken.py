"""Mistral v3 with the Tekken tokenizer, the format of Mistral Nemo.

https://docs.mistral.ai/cookbooks/concept-deep-dive-tokenization-chat_templates
"""

from llamafw_plugins.chat_formats.system_in_user import system_in_user_template

NAME = "mistral-v3-tekken"

TEMPLATE = system_in_user_template(
    start="{{- bos_token -}}",
    system=r"message['content'] + '\n\n'",
    user="'[INST]' + ns.system + message['content'] + '[/INST]'",
    assistant="message['content'] + eos_token",
)
