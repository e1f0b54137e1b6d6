"""The command line. Declares commands and exit codes only; what they do is loaded when they run, so that --help answers at once.

Exit codes: 0 done, 1 failed, 2 bad input, 130 interrupted.
"""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from trainers.errors import DownsampleTunerError, InputError
from trainers.wording import unbroken
from tuner import cli_first_time
from tuner.commands.options import AcceptNoisy, Address, AnyStudy, AsJson, Checkpoints, Storage, Study


class _Commands(TyperGroup):
    """Names the nearest command where there is none of a name."""

    def get_command(self, context: Any, name: str) -> Any:
        command = super().get_command(context, name)
        if command is None and not context.resilient_parsing:
            from tuner.commands.usage import unknown_command

            raise InputError(unknown_command(name, self.list_commands(context)))
        return command


app = typer.Typer(
    name="tuner",
    cls=_Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Finds the downsampling schedule that trains your convolutional network in the least time at the same accuracy.",
)
app.add_typer(cli_first_time.app)


def _say_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"tuner {version('downsample-tuner')}")
        raise typer.Exit


@app.callback()
def version_option(
    version: Annotated[bool, typer.Option("--version", callback=_say_version, is_eager=True, help="Prints the version and exits.")] = False,
) -> None:
    """Declares what may stand before a command."""


@app.command()
def launch(
    study: Study,
    storage: Storage = None,
    trials: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Finished trials in all, those at full resolution included.")
    ] = None,
    timeout: Annotated[str | None, typer.Option(metavar="TIME", help="Ends this launch, as in 2h or 90m.")] = None,
    address: Address = None,
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Overrides a key of the study file, as in training.epochs=3; may be repeated."),
    ] = None,
    checkpoints: Checkpoints = None,
    accept_noisy_timing: AcceptNoisy = False,
    notify: Annotated[
        str | None, typer.Option("--notify", metavar="COMMAND", help="Runs it when the launch ends or stalls, with JSON on its stdin.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress; only warnings, and the front at the end.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="No progress, and the outcome as one JSON document.")] = False,
    detach: Annotated[bool, typer.Option("--detach", help="Returns once it has begun; it goes on when this terminal is closed.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only prints the space, what it costs, how far the budget goes, and what would keep it back.")
    ] = False,
) -> None:
    """Runs a study, or continues it where it was left."""
    if dry_run:
        from tuner.commands.study import dry_run_study

        dry_run_study(study, storage, trials, timeout, address, overrides or [], checkpoints)
        return
    if detach:
        from tuner.launching.detach import launch_detached

        launch_detached(study, storage, overrides or [], address, checkpoints)
        return
    from tuner.commands.study import launch_study

    launch_study(study, storage, trials, timeout, address, overrides or [], checkpoints, accept_noisy_timing, notify, quiet, as_json)


@app.command()
def status(study: AnyStudy = None, storage: Storage = None, as_json: AsJson = False) -> None:
    """What a study has done so far, or all studies of a database."""
    from tuner.commands.study import show_status

    show_status(study, storage, as_json)


@app.command()
def logs(
    study: Study,
    trial: Annotated[int, typer.Option(min=0, metavar="N", help="A trial's number, as tuner status shows it.")],
    storage: Storage = None,
    follow: Annotated[bool, typer.Option("--follow", help="Prints what is added until the trial ends.")] = False,
) -> None:
    """What the training of a trial said."""
    from tuner.commands.logs import show_logs

    show_logs(study, storage, trial, follow)


@app.command()
def doctor(
    study: AnyStudy = None,
    storage: Storage = None,
    address: Address = None,
    checkpoints: Annotated[str | None, typer.Option(metavar="PLACE", help="Folder or URL where a launch would keep checkpoints.")] = None,
    as_json: AsJson = False,
) -> None:
    """Looks at everything that a launch needs, and says all that is wrong at once."""
    from tuner.launching.doctor import show_doctor

    show_doctor(study, storage, address, checkpoints, as_json)


@app.command()
def check(
    study: Study,
    storage: Storage = None,
    as_json: AsJson = False,
    repair: Annotated[bool, typer.Option("--repair", help="Mends what can be mended, and says what it did.")] = False,
) -> None:
    """Whether nothing that finished is lost or counted twice: compares a study's database with what its trainings left."""
    from tuner.checking.repair import show_check

    show_check(study, storage, as_json, repair)


@app.command()
def export(
    study: Study,
    storage: Storage = None,
    export_format: Annotated[str, typer.Option("--format", help="table, csv, json, html, png, svg or schedules.")] = "table",
    out: Annotated[str | None, typer.Option(metavar="PATH", help="File (folder for schedules) to write.")] = None,
) -> None:
    """The front of a study as a table, data, a picture or schedule files."""
    from tuner.commands.study import export_front

    export_front(study, storage, export_format, out)


@app.command()
def track(
    study: Study,
    tracker: Annotated[str, typer.Argument(metavar="TRACKER", help="tensorboard, mlflow or wandb.")],
    storage: Storage = None,
    to: Annotated[str | None, typer.Option("--to", metavar="PLACE", help="Folder (tensorboard, wandb) or tracking URI (mlflow).")] = None,
    follow: Annotated[bool, typer.Option("--follow", help="Goes on with what finishes until the study has what was asked for.")] = False,
) -> None:
    """Hands a study's finished trials to an experiment tracker; given again, it adds what is missing."""
    from tuner.trackers.command import track_study

    track_study(study, storage, tracker, to, follow)


@app.command()
def report(
    study: Study,
    storage: Storage = None,
    out: Annotated[str | None, typer.Option(metavar="PATH", help="By default <study>-report.html.")] = None,
) -> None:
    """One page about a study that opens without a network: the front, each schedule, what it saves and what that is worth."""
    from tuner.report.command import write_report

    write_report(study, storage, out)


@app.command()
def best(
    study: Study,
    storage: Storage = None,
    max_drop: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Fastest that loses at most so much accuracy against the baseline: 0.005 is half a point."),
    ] = None,
    max_time: Annotated[
        float | None, typer.Option(metavar="SHARE", help="Most accurate in so much of the baseline's time: 0.7 is 70 % of it.")
    ] = None,
    knee: Annotated[bool, typer.Option("--knee", help="Where the front bends: little accuracy is left to gain with more time.")] = False,
    out: Annotated[str | None, typer.Option(metavar="PATH", help="Writes its schedule file.")] = None,
    as_json: AsJson = False,
) -> None:
    """The one trial to take from a study, and what its time and accuracy need. Give one of --max-drop, --max-time and --knee."""
    from tuner.commands.best import show_best

    show_best(study, storage, max_drop, max_time, knee, out, as_json)


@app.command()
def stop(study: Study, storage: Storage = None) -> None:
    """Asks the launches of a study to end; what they train goes on at the next launch."""
    from tuner.commands.study import stop_study

    stop_study(study, storage)


@app.command()
def dashboard(
    study: Study,
    storage: Storage = None,
    host: Annotated[
        str, typer.Option(help="Address to listen on; beyond loopback the page needs the token in the URL that is printed.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0: any free one.")] = 8080,
) -> None:
    """Shows a study in the browser as it is now, with Optuna's dashboard one click away."""
    from tuner.serving.dashboard import serve

    serve(study, storage, host, port)


@app.command()
def train(
    study: Annotated[str | None, typer.Option(metavar="STUDY", help="Where network, data and training come from.")] = None,
    trial: Annotated[int | None, typer.Option(min=0, metavar="N", help="Trains as this trial of the study did.")] = None,
    schedule: Annotated[str | None, typer.Option(metavar="FILE", help="Trains with this schedule file.")] = None,
    storage: Storage = None,
    seed: Annotated[int | None, typer.Option(min=0, max=2**32 - 1, help="Default: the trial's.")] = None,
    out: Annotated[str, typer.Option(metavar="PATH", help="Weights; they load into the plain network.")] = "weights.pt",
) -> None:
    """Trains with a found schedule, opens the test split and writes the weights."""
    from tuner.commands.train import train_once
    from tuner.commands.usage import check_out_file

    check_out_file(out)
    train_once(study, trial, schedule, storage, seed, out)


@app.command()
def confirm(
    study: Study,
    storage: Storage = None,
    seeds: Annotated[int, typer.Option(min=2, metavar="N", help="Fresh seeds for each point.")] = 5,
    address: Address = None,
    accept_noisy_timing: AcceptNoisy = False,
    as_json: AsJson = False,
) -> None:
    """Trains the front and its rivals again with fresh seeds, test split opened, and names the points that were there by luck."""
    from tuner.commands.confirm import confirm_front

    confirm_front(study, storage, seeds, address, accept_noisy_timing, as_json)


@app.command()
def delete(
    study: Study, storage: Storage = None, yes: Annotated[bool, typer.Option("--yes", help="Needed: nothing brings it back.")] = False
) -> None:
    """Deletes a study and all its trials."""
    from tuner.commands.study import delete_study

    delete_study(study, storage, yes)


def main() -> None:
    """The `tuner` script: runs a command and turns errors into one sentence and an exit code."""
    try:
        sys.exit(app(prog_name="tuner", standalone_mode=False))
    except typer.TyperException as error:
        _leave_usage(error)
    except InputError as error:
        _leave(unbroken(str(error)), 2)
    except DownsampleTunerError as error:
        _leave("\n".join(map(unbroken, str(error).splitlines())), 1)
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        sys.exit(130)


def _leave_usage(error: typer.TyperException) -> None:
    from tuner.commands.usage import usage_sentence

    if len(sys.argv) == 1:
        sys.exit(2)  # its help is on the screen already
    _leave(unbroken(usage_sentence(error)), 2)


def _leave(sentence: str, code: int) -> None:
    print(f"tuner: {sentence}", file=sys.stderr)
    sys.exit(code)
