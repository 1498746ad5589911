"""`wbfs help`: pages on one topic each, which are Markdown files in the package."""

from __future__ import annotations

from pathlib import Path

import click

import wbfs
from wbfs.cli.words.echo import echo, echo_page
from wbfs.model.errors import UsageError


def _pages() -> dict[str, Path]:
    """Return the pages by their topic."""
    pages = {page.name: page for page in (Path(wbfs.__file__).parent / "help").iterdir()}
    return {name.removesuffix(".md"): pages[name] for name in sorted(pages)}


@click.command(name="help")
@click.argument("topic", required=False)
def help_(topic: str | None) -> None:
    """Explain a TOPIC, or list the topics there are.

    \b
    Examples:
      wbfs help
      wbfs help reading
      wbfs help troubleshooting | less
    """
    pages = _pages()
    if topic is None:
        width = max(map(len, pages))
        for name, page in pages.items():
            title = page.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
            echo(f"wbfs help {name:<{width}}  {title}")
        return
    if topic not in pages:
        raise UsageError(f"there is no help on {topic!r}: the topics are {', '.join(pages)}")
    echo_page(pages[topic].read_text(encoding="utf-8"))
