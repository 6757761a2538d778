"""Gemma: https://ai.google.dev/gemma/docs/core/prompt-structure"""

from llamafw_plugins.chat_formats.system_in_user import system_in_user_template

NAME = "gemma"

_ROLE = "('model' if message['role'] == 'assistant' else message['role'])"

TEMPLATE = system_in_user_template(
    start="{{- bos_token -}}",
    system=r"message['content'] | trim + '\n\n'",
    user=rf"'<start_of_turn>' + {_ROLE} + '\n' + ns.system + message['content'] | trim + '<end_of_turn>\n'",
    generation_prompt=r"'<start_of_turn>model\n'",
)
