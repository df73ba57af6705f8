"""Prompt templates: how a conversation becomes the text a checkpoint was trained on.

A template is a `Conversation` without messages of its own. Take `get_conversation(name)` or
`conv_templates[name].copy()`, append messages, ask for `get_prompt()`. Templates are shared and never change.
"""

from llava.conversation.core import Conversation
from llava.conversation.styles import Segment, SeparatorStyle
from llava.conversation.templates import conv_templates, conversation_mode, default_conversation, get_conversation

__all__ = [
    "Conversation",
    "Segment",
    "SeparatorStyle",
    "conv_templates",
    "conversation_mode",
    "default_conversation",
    "get_conversation",
]
