"""`stemsplit completion`: the script that completes commands and options in a shell."""

import click
from click.shell_completion import get_completion_class

from stemsplit.cli.failures import usage_error

SHELLS = ("bash", "zsh", "fish")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print a shell's completion script.

    \b
    stemsplit completion bash >> ~/.bashrc
    stemsplit completion zsh > "${fpath[1]}/_stemsplit"
    stemsplit completion fish > ~/.config/fish/completions/stemsplit.fish
    """
    from stemsplit.cli.main import main

    found = get_completion_class(shell)
    if found is None:
        raise usage_error(f"no completion for {shell}")
    click.echo(found(main, {}, "stemsplit", "_STEMSPLIT_COMPLETE").source())
