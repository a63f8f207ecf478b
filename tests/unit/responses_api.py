"""Chats and responses for tests, each as the stock types know them."""

import json
from typing import Any

import msgspec
from openai.types.chat import ChatCompletion
from openai.types.responses import Response as StockResponse
from openai.types.responses.response_create_params import ResponseCreateParamsNonStreaming
from pydantic import TypeAdapter

from workers.provider_batches.responses_answer import Response, completion
from workers.provider_batches.responses_body import request

Json = dict[str, Any]
PARAMS: TypeAdapter[ResponseCreateParamsNonStreaming] = TypeAdapter(
    ResponseCreateParamsNonStreaming
)


def chat(**fields: Any) -> Json:
    return {"model": "gpt-6-luna", "messages": [{"role": "user", "content": "Who?"}]} | fields


def translated(**fields: Any) -> Json:
    """What is sent for a chat, as the stock types accept it."""
    made = request(json.dumps(chat(**fields)).encode(), window="8h", name="ours")
    body: Json = json.loads(made.body)
    PARAMS.validate_python(body)
    return body


def response(**fields: Any) -> Json:
    """A response that is completed, unless told otherwise, as the stock types show one."""
    whole: Json = {
        "id": "resp_1",
        "object": "response",
        "created_at": 1_790_000_000.0,
        "status": "completed",
        "model": "gpt-6-luna-2026-11-01",
        "output": [message("I am.")],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": usage(),
    } | fields
    StockResponse.model_validate(whole)
    return whole


def message(*texts_: str, **fields: Any) -> Json:
    content = [{"type": "output_text", "text": text, "annotations": []} for text in texts_]
    whole = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed"}
    return whole | {"content": content} | fields


def usage(**fields: Any) -> Json:
    return {
        "input_tokens": 1200,
        "input_tokens_details": {"cached_tokens": 1024, "cache_write_tokens": 100},
        "output_tokens": 30,
        "output_tokens_details": {"reasoning_tokens": 20},
        "total_tokens": 1230,
    } | fields


def read(whole: Json) -> Response:
    return msgspec.json.decode(json.dumps(whole).encode(), type=Response)


def completed(**fields: Any) -> ChatCompletion:
    """What a stock client reads of a response."""
    return ChatCompletion.model_validate_json(completion(read(response(**fields))), strict=True)
