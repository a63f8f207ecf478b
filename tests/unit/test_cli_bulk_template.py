"""A template names fields and nothing else; a field that is not there is told."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.bulk.faults import BadInput
from cli.bulk.template import MissingField, parse_template


@pytest.mark.parametrize(
    ("template", "fields", "prompt"),
    [
        ("Translate: {text}", {"text": "Hallo"}, "Translate: Hallo"),
        ("{a}{b} {a}", {"a": "1", "b": "2"}, "12 1"),
        ("{First name}!", {"First name": "Ada"}, "Ada!"),
        ("{{{a}}}", {"a": "x"}, "{x}"),
        ("{a}", {"a": 3}, "3"),
        ("{a}", {"a": True}, "true"),
        ("{a}", {"a": ["x", 1.5]}, '["x",1.5]'),
        ("{a}", {"a": "{b}", "b": "no"}, "{b}"),
        ("{a}", {"a": ""}, ""),
    ],
)
def test_gaps_are_filled(template: str, fields: dict[str, Any], prompt: str) -> None:
    assert parse_template(template).fill(fields) == prompt


@pytest.mark.parametrize("fields", [{}, {"b": "x"}, {"a": None}])
def test_a_missing_field_is_named(fields: dict[str, Any]) -> None:
    with pytest.raises(MissingField, match=r"^a$"):
        parse_template("{a}").fill(fields)


@pytest.mark.parametrize("template", ["{", "{a", "}", "{}", "{a!r}", "{a:>9}", "no gap", ""])
def test_what_is_no_template_is_refused(template: str) -> None:
    with pytest.raises(BadInput, match=r"^--template: "):
        parse_template(template)


@pytest.mark.parametrize("name", ["a.b", "a[0]"])
def test_a_gap_reaches_into_nothing(name: str) -> None:
    with pytest.raises(MissingField):
        parse_template(f"{{{name}}}").fill({"a": "x"})


@given(st.text(), st.text())
def test_any_text_may_stand_around_a_gap(text: str, value: str) -> None:
    escaped = text.replace("{", "{{").replace("}", "}}")
    assert parse_template(escaped + "{x}" + escaped).fill({"x": value}) == text + value + text
