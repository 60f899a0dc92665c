"""Sphinx settings, and the command line's reference from the program's own help."""

from pathlib import Path

import typer.main

import kvbound
from kvbound.cli.app import build

project = "kvbound"
author = "the kvbound authors"
copyright = "the kvbound authors"
version = release = kvbound.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "deflist", "colon_fence"]
myst_heading_anchors = 3
exclude_patterns = ["_build"]
autodoc_member_order = "bysource"

html_theme = "furo"
html_title = "kvbound"


def command_reference() -> str:
    """Return the help of every command, as Markdown."""
    sections: list[str] = []

    def describe(command: object, names: list[str]) -> None:
        context = command.make_context(names[-1], [], resilient_parsing=True)
        context.info_name = " ".join(names)
        subcommands = getattr(command, "commands", {})
        if not subcommands:
            sections.append(f"## {context.info_name}\n\n```text\n{command.get_help(context)}\n```\n")
        for name, subcommand in subcommands.items():
            describe(subcommand, [*names, name])

    describe(typer.main.get_command(build()), ["kvbound"])
    return "\n".join(sections)


reference = Path(__file__).parent / "_build" / "cli.md"
reference.parent.mkdir(exist_ok=True)
reference.write_text(command_reference(), encoding="utf-8")
