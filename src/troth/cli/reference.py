"""``python -m troth.cli.reference``: docs/cli.md, out of the commands themselves."""

from collections.abc import Iterator

import click

from troth.cli.main import COMMANDS, cli

_WIDTH = 100


def reference() -> str:
    """Every command's help as Markdown."""
    root = click.Context(
        cli,
        info_name="troth",
        help_option_names=["-h", "--help"],
        max_content_width=_WIDTH,
        terminal_width=_WIDTH,
    )
    lines = [
        "# The command line",
        "",
        "Written by `make docs` from the commands themselves.",
        "",
        "```",
        cli.get_help(root),
        "```",
        "",
    ]
    for title, section in COMMANDS.items():
        lines += [f"## {title}", ""]
        for name in section:
            command = cli.get_command(root, name)
            if command is not None:
                for context in _contexts(command, root, name):
                    lines += [
                        f"### {context.command_path}",
                        "",
                        "```",
                        context.command.get_help(context),
                        "```",
                        "",
                    ]
    return "\n".join(line.rstrip() for line in "\n".join(lines).splitlines()) + "\n"


def _contexts(command: click.Command, parent: click.Context, name: str) -> Iterator[click.Context]:
    context = click.Context(
        command, parent=parent, info_name=name, max_content_width=_WIDTH, terminal_width=_WIDTH
    )
    yield context
    if isinstance(command, click.Group):
        for child_name in command.list_commands(context):
            child = command.get_command(context, child_name)
            if child is not None:
                yield from _contexts(child, context, child_name)


if __name__ == "__main__":
    click.echo(reference(), nl=False)
