"""`mix-core infer`: one question about pictures or a video, one answer."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from mix_core.cli import model_options as options


def register(app: typer.Typer) -> None:
    @app.command("infer")
    def infer(
        model: options.Model,
        prompt: Annotated[str, typer.Option(help="The question; <image> marks a picture's place.")],
        image: Annotated[list[str] | None, typer.Option(help="Path or address; repeatable.")] = None,
        video: Annotated[list[str] | None, typer.Option(help="Path or address; repeatable.")] = None,
        device: options.Device = None,
        simulate: options.Simulate = False,
        kernels: options.Kernels = "auto",
        dtype: options.Dtype = None,
        weights: options.Weights = None,
        seed: options.Seed = 0,
        max_new_tokens: options.MaxNewTokens = 512,
        temperature: options.Temperature = 0.0,
        top_k: options.TopK = 0,
        top_p: options.TopP = 1.0,
        stop: options.Stop = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing else.")] = False,
        draw: Annotated[str | None, typer.Option(help="Write the picture with the answer's boxes.")] = None,
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
                    loading=options.loading(device, simulate, kernels, dtype, weights),
                    answering=options.answering(max_new_tokens, temperature, top_k, top_p, seed, stop),
                    as_json=as_json,
                    draw_to=draw,
                )
            )


def answer(
    *,
    model: str,
    prompt: str,
    images: list[str],
    videos: list[str],
    loading: dict[str, Any],
    answering: dict[str, Any],
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
    engine = load(model, **loading)
    started = time.perf_counter()
    (result,) = engine.answer([prompt], [pictures], [videos], **answering)
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
        "weights": engine.weights,
        "seed": answering["seed"],
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
