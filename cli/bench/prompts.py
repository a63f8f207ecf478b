"""Prompts of a set length, the same for the same seed wherever they are made."""

import random

WORDS = [
    "time",
    "year",
    "people",
    "way",
    "day",
    "man",
    "thing",
    "woman",
    "life",
    "child",
    "world",
    "school",
    "state",
    "family",
    "student",
    "group",
    "country",
    "problem",
    "hand",
    "part",
    "place",
    "case",
    "week",
    "company",
    "system",
    "program",
    "question",
    "work",
    "night",
    "point",
    "home",
    "water",
    "room",
    "mother",
    "area",
    "money",
    "story",
    "fact",
    "month",
    "lot",
    "right",
    "study",
    "book",
    "eye",
    "job",
    "word",
    "business",
    "issue",
    "side",
    "kind",
    "head",
    "house",
    "service",
    "friend",
    "father",
    "power",
    "hour",
    "game",
    "line",
    "end",
    "member",
    "law",
    "car",
    "city",
]
"""Each is one token of all the usual vocabularies."""
TASK = "Continue this list of words with as many more as you can, without stopping:"
TASK_TOKENS = 24
"""About: with the number at the begin, and what a chat template adds."""


def make_prompt(number: int, *, tokens: int, seed: int) -> str:
    """About ``tokens`` long; begins like no other number's, so that no prefix is shared."""
    chosen = random.Random(f"{seed} {number}").choices(WORDS, k=max(1, tokens - TASK_TOKENS))
    return f"{seed}-{number}. {TASK} {' '.join(chosen)}"
