"""The commands around a search: what there is to begin with, and what came out beside something else. Declares them only, as tuner.cli."""

from __future__ import annotations

from typing import Annotated

import typer

from tuner.commands.options import AcceptNoisy, AsJson, Storage, Study

app = typer.Typer()


@app.command()
def studies(as_json: AsJson = False) -> None:
    """The built-in studies: what each is for, and what it needs."""
    from tuner.commands.init import show_studies

    show_studies(as_json)


@app.command()
def init(
    model: Annotated[
        str | None, typer.Option(metavar="NAME", help="A network of ours, a torchvision classifier or module:factory.")
    ] = None,
    dataset: Annotated[str | None, typer.Option(metavar="NAME", help="digits, cifar10, cifar100, fashion_mnist or folder.")] = None,
    data_root: Annotated[str | None, typer.Option(metavar="PATH", help="Folder of the images; by default data.")] = None,
    gpus: Annotated[float | None, typer.Option(metavar="N", help="GPUs that one trial gets; 0 for the CPU.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the study; by default after network and images.")] = None,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="By default <name>.yaml.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrites a file that is there.")] = False,
) -> None:
    """Writes a study file for your network and images, which explains every key; asks three questions in a terminal."""
    from tuner.commands.init import write_study_file

    write_study_file(model, dataset, data_root, gpus, name, out, force=force)


@app.command()
def cost(
    schedule: Annotated[str, typer.Argument(metavar="SCHEDULE", help="A schedule file.")],
    model: Annotated[str, typer.Option(metavar="NAME", help="A network of ours, a torchvision classifier or your module:factory.")],
    dataset: Annotated[
        str, typer.Option(help="Whose side, classes and images are meant (cifar10, cifar100, fashion_mnist, digits, imagenet); not read.")
    ] = "cifar10",
    side_px: Annotated[int | None, typer.Option(metavar="N", help="Full side of your own images, in place of the dataset's.")] = None,
    classes: Annotated[int | None, typer.Option(metavar="N", help="How many classes, in place of the dataset's.")] = None,
    images: Annotated[int | None, typer.Option(metavar="N", help="How many images are trained on, in place of the dataset's.")] = None,
    epochs: Annotated[int, typer.Option(metavar="N", help="Of the training that is asked about.")] = 10,
    batch_size: Annotated[int, typer.Option(metavar="N", help="Images a step.")] = 128,
    precision: Annotated[str, typer.Option(help="fp32, or bf16 on CUDA.")] = "fp32",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    threads: Annotated[int | None, typer.Option(metavar="N", help="Of the CPU; by default one a core.")] = None,
    accept_noisy_timing: AcceptNoisy = False,
    as_json: AsJson = False,
) -> None:
    """Predicts in about a minute what a schedule would save, before anything is trained."""
    from tuner.commands.cost import Workload, show_cost

    workload = Workload(
        model=model,
        dataset=dataset,
        side_px=side_px,
        classes=classes,
        images=images,
        epochs=epochs,
        batch_size=batch_size,
        precision=precision,
        device=device,
        threads=threads,
    )
    show_cost(schedule, workload, accept_noisy=accept_noisy_timing, as_json=as_json)


@app.command()
def compare(
    names: Annotated[list[str], typer.Argument(metavar="A B ...", help="Studies (names or files), or schedule files.")],
    storage: Storage = None,
    study: Annotated[str | None, typer.Option(metavar="STUDY", help="Prices schedule files by its step times; else pixels count.")] = None,
    as_json: AsJson = False,
) -> None:
    """Which study saves more at equal accuracy, or what schedules cost by kind of step."""
    from tuner.commands.compare import show_comparison

    show_comparison(names, storage, study, as_json)


@app.command()
def record(
    study: Study,
    storage: Storage = None,
    out: Annotated[str | None, typer.Option(metavar="FILE", help="By default <study>.jsonl.gz.")] = None,
) -> None:
    """Writes a study as a table that searches can be replayed on."""
    from tuner.replay.record import record_study

    record_study(study, storage, out)
