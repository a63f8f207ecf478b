"""Folds the chunks of a stream into the answer that they make up."""

from collections.abc import Iterable
from copy import deepcopy
from typing import Any, Final

_OBJECTS: Final = {"chat.completion.chunk": "chat.completion"}


def fold(chunks: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """One completion object from chat or text chunks, in their order; usage if one carries it."""
    answer: dict[str, Any] = {}
    choices: dict[int, dict[str, Any]] = {}
    for chunk in chunks:
        for name, value in chunk.items():
            if name != "choices" and value is not None:
                answer[name] = value
        for part in chunk.get("choices", ()):
            _fold_choice(choices.setdefault(part.get("index", 0), {}), deepcopy(part))
    answer["object"] = _OBJECTS.get(answer.get("object", ""), answer.get("object"))
    answer["choices"] = [choices[index] for index in sorted(choices)]
    for choice in answer["choices"]:
        for call in choice.get("message", {}).get("tool_calls") or ():
            call.pop("index", None)  # says which call a chunk adds to; an answer has none
    return answer


def _fold_choice(choice: dict[str, Any], part: dict[str, Any]) -> None:
    for name, value in part.items():
        if name == "delta":
            _merge(choice.setdefault("message", {"content": None}), value)
        elif name == "text":
            choice["text"] = choice.get("text", "") + value
        elif name == "logprobs" and isinstance(value, dict):
            choice[name] = _joined(choice.get(name) or {}, value)
        elif value is not None or name not in choice:
            choice[name] = value


def _merge(message: dict[str, Any], delta: dict[str, Any]) -> None:
    """Strings are appended, lists merged by their items' ``index``, the rest replaced."""
    for name, value in delta.items():
        old = message.get(name)
        if isinstance(value, str) and isinstance(old, str) and name not in ("role", "id", "type"):
            message[name] = old + value
        elif isinstance(value, dict) and isinstance(old, dict):
            _merge(old, value)
        elif isinstance(value, list):
            _merge_items(message.setdefault(name, []), value)
        elif value is not None or name not in message:
            message[name] = value


def _merge_items(items: list[Any], new: list[Any]) -> None:
    for item in new:
        index = item.get("index") if isinstance(item, dict) else None
        known = (
            next((i for i in items if i.get("index") == index), None) if index is not None else None
        )
        if known is None:
            items.append(dict(item) if isinstance(item, dict) else item)
        else:
            _merge(known, item)


def _joined(old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    joined = dict(old)
    for name, value in new.items():
        earlier = joined.get(name)
        if isinstance(earlier, list) and isinstance(value, list):
            joined[name] = earlier + value
        elif value is not None or earlier is None:
            joined[name] = value
    return joined
