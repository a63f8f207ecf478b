"""A provider of the project's own that keeps OpenAI's documented rules, over real HTTP."""
