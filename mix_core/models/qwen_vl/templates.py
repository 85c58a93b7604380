"""The chat templates of Qwen-VL-Chat and Qwen-VL, which their folders do not carry."""

from __future__ import annotations

CHATML = """\
{%- if not messages or messages[0].role != 'system' -%}
{{ '<|im_start|>system\\nYou are a helpful assistant.<|im_end|>\\n' }}
{%- endif -%}
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
{%- endfor -%}
{%- if add_generation_prompt -%}{{ '<|im_start|>assistant\\n' }}{%- endif -%}
"""
"""Qwen-VL-Chat's."""

RAW = """\
{%- for message in messages -%}
{{ message.content }}{%- if message.role == 'assistant' -%}{{ '<|endoftext|>' }}{%- endif -%}
{%- endfor -%}
"""
"""The base model goes on with what it is given; an answer ends with the end of the text."""

FORMATS = {"chatml": CHATML, "raw": RAW}
"""By `chat_format` in generation_config.json."""
