"""Llama 2 chat: https://www.llama.com/docs/model-cards-and-prompt-formats/meta-llama-2/"""

from llamafw_plugins.chat_formats.system_in_user import system_in_user_template

NAME = "llama2"

TEMPLATE = system_in_user_template(
    system=r"'<<SYS>>\n' + message['content'] | trim + '\n<</SYS>>\n\n'",
    user="bos_token + '[INST] ' + ns.system + message['content'] | trim + ' [/INST]'",
    assistant="' ' + message['content'] | trim + ' ' + eos_token",
)
