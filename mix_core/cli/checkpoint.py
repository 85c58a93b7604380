"""`mix-core checkpoint`: look at checkpoints, check them, write them for another number of ranks."""

from __future__ import annotations

from pathlib import Path

import typer


def register(app: typer.Typer) -> None:
    commands = typer.Typer(help="Look at checkpoints, check them, write them for another number of ranks.")
    app.add_typer(commands, name="checkpoint")

    @commands.command("verify")
    def verify(folder: str = typer.Argument(..., help="A checkpoint or a run folder.")) -> None:
        """Compare every file with the manifest's checksums: 0 all are whole, 1 one is not."""
        from mix_core.errors import EXIT_NOT_USABLE
        from mix_core.training import checkpoint, state

        whole, damaged = [], []
        for path in _checkpoints(folder):
            faults = list(state.faults(path))
            for fault in faults:
                typer.echo(f"{path.name}: {fault}")
            if not faults:
                manifest = state.read_manifest(path)
                size = sum(entry["bytes"] for entry in manifest["files"].values())
                typer.echo(f"{path.name}: whole, {len(manifest['files'])} files, {size / 1e6:,.1f} MB")
            (damaged if faults else whole).append(path)
        if damaged:
            newest = whole[-1] if whole else checkpoint.whole_before(damaged[0])
            typer.echo(f"go on from {newest}" if newest else "no checkpoint here is whole")
            raise typer.Exit(EXIT_NOT_USABLE)

    @commands.command("show")
    def show(
        folder: str = typer.Argument(..., help="A checkpoint, or a run folder for its newest."),
    ) -> None:
        """What a checkpoint holds: step, tensors by kind with their pieces, files."""
        from mix_core.training import state

        path = _checkpoints(folder)[-1]
        for line in state.description(state.read_manifest(path)):
            typer.echo(line)

    @commands.command("reshard")
    def reshard(
        folder: str = typer.Argument(..., help="A checkpoint, or a run folder for its newest."),
        out: str = typer.Option(..., "--out", help="The checkpoint to write; it must not be there yet."),
        ranks: int = typer.Option(1, "--ranks", help="Ranks that share the training state."),
    ) -> None:
        """Write a checkpoint with the training state in the pieces of this many ranks."""
        from mix_core.training.reshard import reshard as run

        source = _checkpoints(folder)[-1]
        manifest = run(source, Path(out), ranks)
        pieces = sum(len(entry["pieces"]) for entry in manifest["tensors"].values())
        typer.echo(f"{out}: step {manifest['step']}, {len(manifest['tensors'])} tensors in {pieces} pieces")


def _checkpoints(name: str) -> list[Path]:
    """A checkpoint itself, or those of a run folder, oldest first."""
    from mix_core.errors import CheckpointError
    from mix_core.training import checkpoint, state

    folder = Path(name)
    if not folder.is_dir():
        raise CheckpointError(f"{folder} is no folder; give a checkpoint or a run folder")
    found = checkpoint.list_checkpoints(folder)
    if (folder / state.FOLDER).is_dir() or checkpoint.checkpoint_step(folder) is not None:
        return [folder]
    if not found:
        raise CheckpointError(f"{folder} holds no checkpoint; give a checkpoint or a run folder")
    return found
