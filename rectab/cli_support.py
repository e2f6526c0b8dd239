"""What the commands of the command line share: KEY=VALUE settings, lines for people, and how a command ends."""

from __future__ import annotations

import difflib
import functools
import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, TypeVar

import typer

if TYPE_CHECKING:
    import torch

__all__ = [
    "CountIds",
    "Device",
    "History",
    "Json",
    "Model",
    "Plugins",
    "Trained",
    "Without",
    "add_plugins_named",
    "check_alone",
    "device_named",
    "failures_end",
    "key_values",
    "leave_at_once",
    "left_by_prepare",
    "left_by_sweep",
    "left_by_train",
    "print_json",
    "say",
    "settings_of",
    "stoppable",
]

CommandT = TypeVar("CommandT", bound=Callable[..., None])

_PLACES = ("train", "model")
_STOPPED = 130
"""Exit code of a command that Ctrl-C ended, as shells have it."""


def key_values(pairs: list[str] | None) -> dict[str, Any]:
    """``["a=1", "b=x", "c=64,32"]`` -> ``{"a": 1, "b": "x", "c": [64, 32]}``; values are JSON where they can be."""
    options: dict[str, Any] = {}
    for pair in pairs or []:
        key, separator, text = pair.partition("=")
        if not separator or not key:
            raise ValueError(f"{pair!r}: write KEY=VALUE")
        options[key] = _value(text)
    return options


def _value(text: str) -> Any:
    for written in (text, f"[{text}]") if "," in text else (text,):
        try:
            return json.loads(written)
        except (ValueError, RecursionError):
            continue
    try:
        return float(text)  # JSON does not know .5
    except ValueError:
        return text


def add_plugins_named(names: list[str] | None) -> list[str] | None:
    """``--plugin``: import the modules before the command runs."""
    if names:
        from rectab.tables.plugins import add_plugins

        add_plugins(names)
    return names


def check_alone(command: str | None) -> None:
    """Raises ValueError where torchrun starts a command several times that is for one process."""
    if command != "train" and "TORCHELASTIC_RUN_ID" in os.environ and os.environ.get("WORLD_SIZE", "1") != "1":
        raise ValueError(f"{command} is for one process, and torchrun started several: only `rectab train` runs so")


Trained = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(
        help="Folder of finished runs of --table full: those that fit are read and not trained again, and what is "
        "trained is kept there."
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]
CountIds = Annotated[
    bool, typer.Option("--count-ids", help="The budget is for the table and the map from raw values to ids together.")
]
Device = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:1; auto: a GPU if there is one, which is said on standard error.")
]
Model = Annotated[
    str, typer.Option(help="Interaction: lr, fm, mlp, deepfm, wide_deep, dcnv2, dlrm, armnet, armnet_plus, mf.")
]
History = Annotated[
    Optional[str],  # noqa: UP045 - typer reads it on Python 3.10
    typer.Option(help="History tower: none, mean, din; by the rule for settings if not given."),
]
Without = Annotated[
    Optional[list[str]],  # noqa: UP045
    typer.Option("--without", help="A feature, float column or behaviour to leave out; may be repeated."),
]
Plugins = Annotated[
    Optional[list[str]],  # noqa: UP045 - typer reads it on Python 3.10
    typer.Option("--plugin", help="Module that registers a table method; may be repeated.", callback=add_plugins_named),
]


def settings_of(pairs: list[str] | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings of training and of the model, from ``--set``. Raises ValueError for any other."""
    settings = key_values(pairs)
    for key in settings:
        place, dot, name = key.partition(".")
        if place not in _PLACES or not dot:
            near = difflib.get_close_matches(place, _PLACES, n=1) if dot else []
            hint = f"; did you mean {near[0]}.{name}?" if near else ""
            raise ValueError(f"--set {key}: settings start with train. or model.{hint}")
    return _below("train.", settings), _below("model.", settings)


def _below(prefix: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings under a prefix; further dots nest: ``model.history.hidden=[32]`` is an option of the tower."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        if key.startswith(prefix):
            *path, last = key.removeprefix(prefix).split(".")
            place = found
            for part in path:
                place = place.setdefault(part, {})
                if not isinstance(place, dict):
                    raise ValueError(f"--set {key}: {part} is set to a value of its own as well")
            place[last] = value
    return found


def device_named(name: str) -> torch.device:
    """What ``--device`` says; a GPU is told. Raises ValueError for a device that is not there."""
    import torch

    from rectab.training.device import resolve_device

    device = resolve_device(name)
    if device.type == "cuda":  # results name the CPU where it is that
        say(f"device: {device}, {torch.cuda.get_device_name(device)}")
    return device


def say(line: str) -> None:
    """On standard error, so that what is asked for stays alone on standard output; of several processes the first."""
    if "torch" in sys.modules:
        from rectab.processes import leads

        if not leads():
            return
    sys.stderr.write(line + "\n")


def print_json(value: Any) -> None:
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def stoppable(left: Callable[[Mapping[str, Any]], str]) -> Callable[[CommandT], CommandT]:
    """Decorates a command that takes long: Ctrl-C ends it at once, with a line that says how to go on.

    Args:
        left: the command's arguments -> what it leaves, and what the same command does next.
    """

    def decorate(command: CommandT) -> CommandT:
        @functools.wraps(command)
        def run(**arguments: Any) -> None:
            try:
                command(**arguments)
            except KeyboardInterrupt:
                say(f"\nrectab: stopped; {left(arguments)}")
                raise typer.Exit(_STOPPED) from None

        return run  # type: ignore[return-value]

    return decorate


def leave_at_once(command: Callable[[], None]) -> None:
    """Run the command line; after Ctrl-C the process ends without waiting for threads or for libraries to go down."""
    try:
        command()
    except SystemExit as ended:
        if ended.code == _STOPPED:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(_STOPPED)
        raise


def left_by_prepare(arguments: Mapping[str, Any]) -> str:
    return f"nothing was written to {arguments['out']}, and the same command starts over"


def left_by_train(arguments: Mapping[str, Any]) -> str:
    out: Path | None = arguments["out"]
    if out is None:
        return "nothing of the run is kept; with --out FOLDER the same command goes on where it was stopped"
    if any((out / "checkpoints").glob("*.safetensors")):
        return f"the same command goes on from its last checkpoint in {out}"
    return f"no checkpoint was due yet, and the same command starts the run in {out} over"


def left_by_sweep(arguments: Mapping[str, Any]) -> str:
    return f"finished runs are kept in {arguments['out']}, and the same command goes on with the others"


def failures_end(failed: list[tuple[str, str]]) -> None:
    """Say which runs failed and why, runs of one reason together, and exit with code 1; return if none did."""
    if not failed:
        return
    reasons: dict[str, list[str]] = {}
    for what, error in failed:
        reasons.setdefault(error, []).append(what)
    say(f"rectab: {len(failed)} run{'s' if len(failed) != 1 else ''} failed; --retry-failed runs them again")
    for error, runs in reasons.items():
        say("".join(f"  {what}\n" for what in runs) + f"    {error}")
    raise typer.Exit(1)
