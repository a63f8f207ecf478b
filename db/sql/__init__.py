"""The statements whose locks and plans matter, one file each."""

from importlib.resources import files


def load(name: str) -> str:
    """The text of ``<name>.sql``."""
    return files(__name__).joinpath(f"{name}.sql").read_text()
