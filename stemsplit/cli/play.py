"""`stemsplit play` and `stemsplit serve`: a page in the browser to mix, compare and separate."""

import os
from pathlib import Path
from typing import Any

import click

from stemsplit.cli.failures import usage_error
from stemsplit.cli.options import choose_best, flag, setting
from stemsplit.fields import collect, whole
from stemsplit.settings import ModelSettings, Request

HOST = "127.0.0.1"
_CONTEXT = {"help_option_names": ["-h", "--help"]}


def _one_model(ctx: click.Context, param: click.Parameter, values: tuple[str, ...]) -> str | None:
    """Return the model that is given, None if none is; refuse several, of which only one would be used."""
    if len(values) > 1:
        raise usage_error(f"-m {' -m '.join(values)}: the page takes one model")
    return values[0] if values else None


_SHARED = (
    click.Argument(["paths"], nargs=-1, metavar="[FOLDER|SONG]..."),
    setting("output", note="The page shows it, too."),
    setting("model", multiple=True, callback=_one_model),
    setting("device"),
    setting("offline"),
    flag(
        "--host",
        default=HOST,
        metavar="NAME",
        help="Address to listen on; another than this machine needs --key.",
    ),
    flag(
        "--port",
        type=whole(0),
        default="0",
        metavar="N",
        help="Port to listen on; 0 is any free one.",
    ),
    flag("--key", metavar="WORD", help="Secret part of the page's address, in place of a random one."),
)


@click.command(
    params=[*_SHARED, flag("--no-open", is_flag=True, help="Only print the page's address.")],
    context_settings=_CONTEXT,
)
def play(no_open: bool, **options: Any) -> None:
    """Open a page to hear, mix, compare and separate; needs pip install 'stemsplit-cli[web]'.

    It shows the stems in the folders, and songs to separate; without any, the stems in the output folder.
    Nothing leaves this machine. Ctrl-C ends it.

    \b
    stemsplit play
    stemsplit play song.mp3
    stemsplit play stems/ -m tiny
    """
    _serve(options, browser=not no_open)


@click.command(params=[*_SHARED], context_settings=_CONTEXT)
def serve(**options: Any) -> None:
    """Serve the same page and its HTTP API without opening a browser; needs pip install 'stemsplit-cli[web]'.

    Other programs can separate through it without loading the model each time: see docs/play.md.

    \b
    stemsplit serve
    stemsplit serve songs/ --port 8000 --key correct-horse-battery
    """
    _serve(options, browser=False)


def _serve(options: dict[str, Any], browser: bool) -> None:
    _require_extra()
    from stemsplit.core.devices import check_device
    from stemsplit.core.memory import share_memory
    from stemsplit.separation.jobs import check_folder
    from stemsplit.urls import Url, place_of, shown

    if options["output"] == "-":
        raise usage_error("-o -: the page writes files into a folder")
    for path in options["paths"]:
        if not os.path.exists(path):
            raise usage_error(f"{path or repr(path)}: no such file or folder")
    paths = [Path(path) for path in options["paths"]]
    for reason in choose_best(options):
        click.echo(f"note: {reason}", err=True)
    request = collect(options, Request)
    output = place_of(request.batch.output)
    if isinstance(output, Url):
        raise usage_error(f"-o {shown(str(output))}: the page writes files into a folder of this machine")
    check_folder(output)
    check_device(request.compute.device)
    _check_model(request.model)
    share_memory()
    from stemsplit.web.server import open_browser, serve

    def ready(address: str, _: object) -> None:
        click.echo(address)
        click.echo("Ctrl-C ends the server", err=True)
        if browser:
            open_browser(address)

    serve(
        paths,
        output,
        {name: options[name] for name in ("model", "device", "offline") if options[name] is not None},
        host=options["host"],
        port=options["port"],
        key=options["key"],
        ready=ready,
    )


def _check_model(settings: ModelSettings) -> None:
    """Refuse a model that can't be found, without loading it or opening a connection.

    Raises:
        UnknownNameError: no model has this name.
        CheckpointError: there is no such file.
        SettingsError: a recipe or a bag is malformed.
    """
    from stemsplit.hub.access import Access
    from stemsplit.hub.locate import locate
    from stemsplit.hub.registry import is_known

    source = str(settings.model)
    if not is_known(source) and not source.startswith("hf:"):
        locate(source, Access.of(settings), None)


def _require_extra() -> None:
    from importlib.util import find_spec

    from stemsplit.errors import StemsplitError

    missing = [name for name in ("starlette", "uvicorn") if find_spec(name) is None]
    if missing:
        hint = "pip install 'stemsplit-cli[web]'"
        raise StemsplitError(f"the page needs {' and '.join(missing)}", hint=hint)
