"""The chats that have an equal as a response: each field that has one, and no other.

The `openai` package's types are the reference. What is none of these shapes goes as it is.
"""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, Raw, Struct, UnsetType

NO_PARAMETERS = Raw(b'{"type":"object","properties":{}}')
"""Of a function that names none."""
Nothing = Annotated[list[Any], Meta(max_length=0)] | None


class Strict(Struct, forbid_unknown_fields=True):
    pass


class Text(Strict, tag="text", tag_field="type"):
    text: str


class Url(Strict):
    url: str
    detail: Literal["auto", "low", "high", "original"] = "auto"


class Image(Strict, tag="image_url", tag_field="type"):
    image_url: Url


class Function(Strict):
    name: str
    arguments: str


class Call(Strict, tag="function", tag_field="type"):
    id: str
    function: Function


class System(Strict, tag="system", tag_field="role"):
    content: str | list[Text]


class Developer(Strict, tag="developer", tag_field="role"):
    content: str | list[Text]


class User(Strict, tag="user", tag_field="role"):
    content: str | list[Text | Image]


class Assistant(Strict, tag="assistant", tag_field="role"):
    """Also as the SDK gives it back, with all that it does not hold as null."""

    content: str | None = None
    tool_calls: list[Call] | None = None
    refusal: None = None
    audio: None = None
    function_call: None = None
    annotations: Nothing = None


class Tool(Strict, tag="tool", tag_field="role"):
    tool_call_id: str
    content: str | list[Text]


class Definition(Strict):
    name: str
    description: str | UnsetType = UNSET
    parameters: Raw = NO_PARAMETERS
    strict: bool | None = None


class FunctionTool(Strict, tag="function", tag_field="type"):
    function: Definition


class Named(Strict):
    name: str


class NamedChoice(Strict, tag="function", tag_field="type"):
    function: Named


class PlainText(Strict, tag="text", tag_field="type"):
    pass


class JsonObject(Strict, tag="json_object", tag_field="type"):
    pass


class Schema(Strict):
    name: str
    schema: Raw
    description: str | UnsetType = UNSET
    strict: bool | None = None


class JsonSchema(Strict, tag="json_schema", tag_field="type"):
    json_schema: Schema


class Chat(Strict):
    """Every field that is known; those of the second part may say what holds without them."""

    model: str
    messages: Annotated[list[System | Developer | User | Assistant | Tool], Meta(min_length=1)]
    tools: Annotated[list[FunctionTool], Meta(min_length=1)] | None = None
    tool_choice: Literal["none", "auto", "required"] | NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    response_format: PlainText | JsonObject | JsonSchema | None = None
    verbosity: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_completion_tokens: int | None = None
    max_tokens: int | None = None
    reasoning_effort: str | None = None
    metadata: dict[str, str] | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["auto", "default", "flex"] | None = None
    store: bool | None = None

    n: Literal[1] | None = None
    stop: Nothing = None
    seed: None = None
    logit_bias: Annotated[dict[str, Any], Meta(max_length=0)] | None = None
    frequency_penalty: Annotated[float, Meta(ge=0, le=0)] | None = None
    presence_penalty: Annotated[float, Meta(ge=0, le=0)] | None = None
    logprobs: Literal[False] | None = None
    top_logprobs: None = None
    stream: Literal[False] | None = None
    stream_options: None = None
    modalities: list[Literal["text"]] | None = None
    audio: None = None
    function_call: None = None
    functions: None = None
    moderation: None = None
    prediction: None = None
    prompt_cache_options: None = None
    prompt_cache_retention: None = None
    web_search_options: None = None
