"""Build the templates of formats that have no turn for system messages.

A system message is written at the start of the next user message. A conversation that ends with a system message is
refused, because that message would be lost.
"""

from __future__ import annotations


def system_in_user_template(
    *, start: str = "", system: str, user: str, assistant: str | None = None, generation_prompt: str | None = None
) -> str:
    """Return the Jinja template of a format.

    Parameters
    ----------
    start : str
        Template text before the first message.
    system : str
        Jinja expression for the text that a system message, ``message``, adds to ``ns.system``.
    user : str
        Jinja expression for the turn of ``message``. ``ns.system`` has the text of the system messages before it.
    assistant : str, optional
        Jinja expression for the turn of an answer, ``message``. Without it, ``user`` writes these turns too.
    generation_prompt : str, optional
        Jinja expression for the start of the model's response. Without it, the end of a user's turn is enough.
    """
    lines = [
        "{%- set ns = namespace(system='') -%}",
        "{%- for message in messages -%}",
        "{%- if message['role'] == 'system' -%}",
        f"{{%- set ns.system = ns.system + {system} -%}}",
        "{%- else -%}",
        f"{{{{ {user} }}}}",
        "{%- set ns.system = '' -%}",
        "{%- endif -%}",
        "{%- endfor -%}",
        "{%- if ns.system -%}",
        "{{ raise_exception('a system message needs a user message after it') }}",
        "{%- endif -%}",
    ]

    if start:
        lines.insert(0, start)
    if assistant is not None:
        at = lines.index("{%- else -%}")
        lines[at:at] = ["{%- elif message['role'] == 'assistant' -%}", f"{{{{ {assistant} }}}}"]
    if generation_prompt is not None:
        lines += ["{%- if add_generation_prompt -%}", f"{{{{ {generation_prompt} }}}}", "{%- endif -%}"]

    return "\n".join(lines) + "\n"
