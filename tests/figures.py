"""Reads Prometheus's text format, as a scrape gets it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tests.stack import WAIT_SECONDS, Stack

SERVED = re.compile(r"metrics_served.*\bport=(\d+)")
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


@dataclass(frozen=True, slots=True)
class Scrape:
    """One answer of `/metrics`."""

    text: str
    types: Mapping[str, str]
    """By the names of the metrics, as the table has them."""
    samples: Mapping[tuple[str, frozenset[tuple[str, str]]], float]

    def value(self, name: str, **labels: str) -> float | None:
        """One series; None where it is absent."""
        return self.samples.get((name, frozenset(labels.items())))

    def sum(self, name: str, **labels: str) -> float:
        """Of all series of a name that have these labels; KeyError where there is none."""
        found = [
            value
            for (found, has), value in self.samples.items()
            if found == name and has >= frozenset(labels.items())
        ]
        if not found:
            raise KeyError(name)
        return sum(found)

    def labels(self, name: str) -> set[frozenset[str]]:
        """The names of the labels of a metric's series, without those of a histogram's buckets."""
        return {
            frozenset(label for label, _ in has) - {"le"}
            for (found, has) in self.samples
            if found in (name, f"{name}_bucket")
        }

    def values_of(self, label: str) -> set[str]:
        """All values that a label has in our own metrics."""
        return {
            value
            for name, has in self.samples
            if name.startswith("carpool_")
            for found, value in has
            if found == label
        }


def parse(text: str) -> Scrape:
    """What a text says; counters have their full names."""
    types = {}
    samples = {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        types[name] = family.type
        for sample in family.samples:
            samples[sample.name, frozenset(sample.labels.items())] = sample.value
    return Scrape(text, types, samples)


async def scrape(root_url: str) -> Scrape:
    """What a process shows now."""
    async with httpx.AsyncClient(timeout=WAIT_SECONDS) as http:
        answer = await http.get(f"{root_url}/metrics")
    assert answer.status_code == 200, answer.text
    return parse(answer.text)


def doors(stack: Stack) -> list[str]:
    """The URLs of the processes of a stack that serve figures on ports of their own."""
    ports = SERVED.findall(_COLOURS.sub("", stack.output()))
    return [f"http://127.0.0.1:{port}" for port in ports]
