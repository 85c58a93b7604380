"""`mix-core infer`: one question about pictures or a video, one answer."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import typer


def register(app: typer.Typer) -> None:
    @app.command("infer")
    def infer(
        model: str = typer.Option(..., "--model", help="Model folder, training checkpoint or hub name."),
        prompt: str = typer.Option(..., "--prompt", help="The question; <image> marks a picture's place."),
        image: Annotated[list[str] | None, typer.Option(help="Path or address; repeatable.")] = None,
        video: Annotated[list[str] | None, typer.Option(help="Path or address; repeatable.")] = None,
        device: str | None = typer.Option(None, "--device", help="Device, for example npu or npu:1."),
        simulate: bool = typer.Option(False, "--simulate", help="Run on a simulated device."),
        kernels: Annotated[str, typer.Option(help="auto, or reference: none of the device's own.")] = "auto",
        dtype: str | None = typer.Option(None, "--dtype", help="float32, bfloat16 or float16."),
        seed: int = typer.Option(0, "--seed", help="Of the draws at a temperature above 0."),
        max_new_tokens: int = typer.Option(512, "--max_new_tokens", help="Longest answer, in tokens."),
        temperature: float = typer.Option(0.0, "--temperature", help="0 is greedy."),
        top_k: int = typer.Option(0, "--top_k", help="Draw from the k most likely tokens; 0: all."),
        top_p: float = typer.Option(1.0, "--top_p", help="Draw from the most likely part; 1: all."),
        stop: Annotated[list[str] | None, typer.Option(help="End before this text; repeatable.")] = None,
        as_json: bool = typer.Option(False, "--json", help="Print one JSON object, and nothing else."),
        draw: str | None = typer.Option(
            None, "--draw", help="Write the picture with the boxes in the answer."
        ),
    ) -> None:
        """Answer a question about pictures, a video or nothing but text."""
        from mix_core.cli.output import only_results_on_stdout

        with only_results_on_stdout(as_json) as write:
            write(
                answer(
                    model=model,
                    prompt=prompt,
                    images=image or [],
                    videos=video or [],
                    loading={
                        "device": device,
                        "simulate": simulate or None,
                        "kernels": kernel_choice(kernels),
                        "dtype": dtype,
                    },
                    generation={
                        "max_new_tokens": max_new_tokens,
                        "temperature": temperature,
                        "top_k": top_k,
                        "top_p": top_p,
                        "seed": seed,
                        "stop": tuple(stop or ()),
                    },
                    as_json=as_json,
                    draw_to=draw,
                )
            )


def kernel_choice(text: str) -> Literal["auto", "reference"]:
    """Check --kernels. Raises ConfigError."""
    from mix_core.errors import ConfigError

    if text not in ("auto", "reference"):
        raise ConfigError(f"--kernels is {text}, expected auto or reference")
    return text  # type: ignore[return-value]


def answer(
    *,
    model: str,
    prompt: str,
    images: list[str],
    videos: list[str],
    loading: dict[str, Any],
    generation: dict[str, Any],
    as_json: bool,
    draw_to: str | None,
) -> str:
    """What the command prints. What can be wrong with the arguments is found before paddle is imported."""
    import json
    import time

    from mix_core.data.images import load_image
    from mix_core.inference.conversation import conversation
    from mix_core.inference.engine import load

    picture_file = PictureFile(draw_to, has_picture=bool(images))
    conversation(prompt, images, videos)  # places and pictures agree
    pictures = [load_image(source) for source in images]
    engine = load(model, allow_reexec=True, **loading)
    started = time.perf_counter()
    (result,) = engine.answer([prompt], [pictures], [videos], **generation)
    seconds = time.perf_counter() - started
    boxes = find_boxes(result.text, engine, pictures)
    if draw_to is not None:
        picture_file.write(pictures[-1], boxes)
    if not as_json:
        return result.text
    report = {
        "text": result.text,
        "boxes": [{"label": box.label, "box": list(box.corners)} for box in boxes],
        "prompt_tokens": result.prompt_tokens,
        "new_tokens": result.new_tokens,
        "finish": result.finish,
        "seconds": round(seconds, 4),
        "device": engine.activation.place,
        "dtype": engine.dtype,
        "seed": generation["seed"],
        "drawn": str(draw_to) if draw_to is not None and boxes else None,
    }
    return json.dumps(report, ensure_ascii=False)


def find_boxes(text: str, engine: Any, pictures: list[Any]) -> list[Any]:
    """Boxes in the answer; those given in pixels are of the last picture."""
    from mix_core.inference.grounding import parse_boxes

    return parse_boxes(text, seen_size=engine.seen_size(pictures[-1]) if pictures else None)


class PictureFile:
    """Where --draw writes. Made before the model is loaded, so that a bad path costs no waiting."""

    def __init__(self, path: str | None, *, has_picture: bool) -> None:
        import os
        from pathlib import Path

        from PIL import Image

        from mix_core.errors import BadInputError

        self.path = path
        if path is None:
            return
        if not has_picture:
            raise BadInputError("--draw needs a picture to draw on; give --image")
        Image.init()
        suffix = Path(path).suffix.lower()
        if Image.EXTENSION.get(suffix) not in Image.SAVE:
            raise BadInputError(f"--draw {path}: {suffix or 'no suffix'} is no picture format; give a .png")
        folder = Path(path).absolute().parent
        target = path if Path(path).exists() else folder
        if not folder.is_dir() or Path(path).is_dir() or not os.access(target, os.W_OK):
            raise BadInputError(f"--draw {path} cannot be written; give a file in a folder that can be")

    def write(self, picture: Any, boxes: list[Any]) -> None:
        import sys

        from mix_core.errors import BadInputError
        from mix_core.inference.grounding import draw

        if not boxes:
            print(f"no boxes in the answer, so {self.path} was not written", file=sys.stderr)
            return
        try:
            draw(picture, boxes).save(self.path)
        except OSError as error:
            raise BadInputError(f"--draw {self.path} cannot be written: {error}") from error
        print(f"{len(boxes)} box(es) drawn in {self.path}", file=sys.stderr)
