"""The `induced` command: train, look at, and prove properties of models built on the library."""

import difflib
import functools
import io
import os
import re
import shlex
import signal
import sys
import threading
from argparse import ArgumentError, ArgumentParser, BooleanOptionalAction
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from importlib.metadata import entry_points
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
import tyro

import applications.flow_matching.record
import applications.idempotent.record
import applications.style_transfer.record  # noqa: F401  (each registers its application)
import induced
from applications.application import Application, known, owner
from applications.commands import check_command, export, info, summary, training
from applications.common.places import at_home
from applications.common.runs import COMMAND, last_stage
from induced.errors import InducedError
from induced.precision import full_precision
from induced.serialization import notes
from induced.serialization.layout import CONFIG, ENTRY_POINTS

Command = Callable[..., None]
GENERAL: dict[str, Command] = {"check": check_command, "export": export, "info": info}
"""Commands of the models of every application."""


def overview() -> str:
    """All commands, by application."""
    groups = {"the models of all applications": {verb: summary(command) for verb, command in GENERAL.items()}}
    for one in known():
        own = {verb: summary(command) for verb, command in one.commands.items()}
        groups[one.name] = {f"train {one.name}": summary(one.Config), **own}
    width = max(len(verb) for group in groups.values() for verb in group)
    lines = ["usage: induced COMMAND [OPTIONS] | COMMAND --help | --help | --version", "", "Trained models, and their laws."]
    for title, group in groups.items():
        lines += ["", title, *(f"  {verb:<{width}}  {text}" for verb, text in group.items())]
    return "\n".join(lines)


def chosen(arguments: Sequence[str]) -> tuple[str, Command, Sequence[str]]:
    """The name of a command line's command, the command, and its arguments.

    Raises:
        SystemExit: there is no such command; the message names those that may be meant.
    """
    verb, rest = arguments[0], arguments[1:]
    names = {one.name: one for one in known()}
    if verb == "train":
        if rest and rest[0] in names:
            application = names[rest[0]]
            _, options, how = settled(application, rest[1:])
            return f"train {rest[0]}", training(application, options), [*options, *how]
        refuse("train takes the name of an application", [f"train {name}" for name in names])
    if verb in GENERAL:
        return verb, GENERAL[verb], rest
    if (named := verb.replace("_", "-")) in names:
        refuse(f"{named} is an application; its commands are", [f"train {named}", *names[named].commands])
    having = [one for one in names.values() if verb in one.commands]
    if not having:
        verbs = [*GENERAL, "train", *(verb for one in names.values() for verb in one.commands)]
        near = difflib.get_close_matches(verb, dict.fromkeys(verbs))
        refuse(f"there is no command {verb!r}{'; like it' * bool(near)}", near)
    if rest and not rest[0].startswith("-") and Path(rest[0]).is_dir():
        refuse(f"{verb} takes its model by an option", [f"{verb} --run {rest[0]}"])
    return verb, meant(having, rest).commands[verb], rest


def meant(having: Sequence[Application], arguments: Sequence[str]) -> Application:
    """Of applications with one verb that whose model the arguments name; else the first, which says what is wrong with it."""
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--run", type=Path)
    parser.add_argument("--pretrained")
    given, _ = parser.parse_known_args(arguments)
    named = owner(given.run) if len(having) > 1 and given.run is not None else None
    return next((one for one in having if one is named or given.pretrained in one.shipped()), having[0])


def settled(application: Application, arguments: Sequence[str]) -> tuple[Path, list[str], list[str]]:
    """The folder of a training, the options that its run records, and those that say how it is begun.

    Options of a run that goes on come first, as its config.json records them: those that are given anew then win.
    """
    parser = ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--out", type=Path, default=Path("runs") / application.name)
    for name in ("--resume", "--overwrite", "--fallback"):
        parser.add_argument(name, action=BooleanOptionalAction, default=False)
    try:
        given, options = parser.parse_known_args(arguments)
    except ArgumentError:  # which tyro explains
        return Path(), [], list(arguments)
    how = [f"--{name}" for name in ("resume", "overwrite", "fallback") if getattr(given, name)]
    if given.resume and (given.out / CONFIG).exists():
        options = [*shlex.split(notes(given.out).get(COMMAND, "")), *options]
    return given.out, options, ["--out", str(given.out), *how]


def how_to_go_on(arguments: Sequence[str]) -> str:
    """What to do after an interruption."""
    application = next((one for one in known() if [*arguments[:2]] == ["train", one.name]), None)
    if application is None:
        return ""
    folder = settled(application, arguments[2:])[0]
    if (stage := last_stage(folder)) is None:
        return ": there is no checkpoint yet"
    return f": `induced train {application.name} --out {folder} --resume` goes on from {stage.checkpoints()[-1]}"


def refuse(problem: str, commands: Sequence[str]) -> NoReturn:
    """End with an error of usage that names commands."""
    among = f": {', '.join(f'`induced {command}`' for command in commands)}" if commands else ""
    print(f"induced: {problem}{among}. `induced --help` lists all commands", file=sys.stderr)
    sys.exit(2)


def register_others() -> None:
    """Import what other packages have under the entry points `induced.models`: their kinds, and their applications."""
    for point in entry_points(group=ENTRY_POINTS):
        if point.name not in {one.family for one in known()}:
            try:
                point.load()
            except ImportError as error:
                print(f"induced: {point.value} of another package cannot be imported ({error})", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command; an error of the library ends it with its message alone.

    Arguments:
        arguments: Of the command line; those of the process where left out.
    """
    arguments = [at_home(argument) for argument in (sys.argv[1:] if arguments is None else arguments)]
    register_others()
    try:
        with _interruptible():
            _run(arguments)
    except BrokenPipeError:  # of `induced info FOLDER | head`; the flush at exit would raise again
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt as asked:  # Ctrl-C or SIGTERM
        print(f"\ninduced: {'terminated' if asked.args else 'interrupted'}{how_to_go_on(arguments)}", file=sys.stderr)
        sys.exit(128 + (asked.args[0] if asked.args else signal.SIGINT))
    except InducedError as error:
        sys.exit(f"induced: {error}")
    except (MemoryError, RuntimeError) as error:  # of numpy and torch, on the CPU and on an accelerator
        if "memory" not in str(error):
            raise
        sys.exit(f"induced: there is not enough memory ({str(error).splitlines()[0]}); take fewer or smaller ones")
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        sys.exit(f"induced: {where}{error.strerror or error}")


def _run(arguments: Sequence[str]) -> None:
    if arguments in ([], ["--help"], ["-h"]):
        print(overview(), flush=True)
        sys.exit(0 if arguments else 2)
    if arguments == ["--version"]:
        print(f"induced {induced.__version__}", flush=True)
        return
    name, command, rest = chosen(arguments)
    run = parsed(name, command, rest)
    if name.startswith("train "):
        torch.set_float32_matmul_precision("highest")  # no run folder would record TORCH_ALLOW_TF32_CUBLAS_OVERRIDE
        run()
    else:
        with full_precision():
            run()
    print(end="", flush=True)


def parsed(name: str, command: Command, arguments: Sequence[str]) -> Callable[[], None]:
    """A command with the options of a command line.

    Raises:
        SystemExit: of 2, after one line on stderr, where an option is unknown, lacking or cannot be meant; of 0 after its help.
    """

    @functools.wraps(command)
    def bound(*args: Any, **options: Any) -> Callable[[], None]:
        return functools.partial(command, *args, **options)

    bound.__annotations__ = command.__annotations__
    said = io.StringIO()
    try:
        with redirect_stderr(said):
            found: Callable[[], None] = tyro.cli(
                bound, prog=f"induced {name}", args=arguments, config=(tyro.conf.OmitArgPrefixes,)
            )
    except SystemExit:
        if said.getvalue():
            print(f"induced {name}: error: {unboxed(said.getvalue())}; `induced {name} --help` explains", file=sys.stderr)
        raise
    return found


def unboxed(text: str) -> str:
    """What tyro says in a box, as one sentence: the mistake, and the options that may be meant.

    The box is drawn in lines, its title in the frame; or, where the terminal has none, in hyphens, its title above them.
    """
    parts = [" ".join(part.split()) for part in re.split(r"^ *-+ *$|[╭─╮│╰╯]{2,}", text.replace("│", " "), flags=re.MULTILINE)]
    _, *parts = filter(None, parts)
    mistake = re.sub(r"^Error parsing (config[\w.]*: )?", "", parts[0]).rstrip(".")
    mistake = re.sub(r"no type matching .* Got errors: .*(?:'>|\]): ", "", mistake)  # of INT | None: what is wrong with the INT
    mistake = re.sub(r"invalid literal for int\(\) with base 10:", "a whole number is needed, got", mistake)
    mistake = mistake.replace("could not convert string to float:", "a number is needed, got")
    if mistake.startswith("Missing from"):
        mistake = f"missing: {', '.join(re.findall(r'--[a-z-]+ [A-Z][^ ]*', mistake))}"
    meant = dict.fromkeys(option for part in parts if part.startswith("Perhaps") for option in re.findall(r"--[a-z-]+", part))
    meant |= {
        f"--{name.replace('_', '-')}": None for name in re.findall(r"--[\w.-]+\.([\w-]+)", mistake)
    }  # as `info` names settings
    return mistake[0].lower() + mistake[1:] + f" (perhaps {' or '.join(meant)})" * bool(meant)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Within it SIGTERM is a KeyboardInterrupt, as Ctrl-C is: files and locks are left in order, whatever is being done."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    if threading.current_thread() is not threading.main_thread():  # which alone may say so
        yield
        return
    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


if __name__ == "__main__":
    main()
