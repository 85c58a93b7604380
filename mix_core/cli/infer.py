"""`mix-core infer`: a question about pictures or a video, or a file of questions, answered by any model.

With a text-to-image model it draws (infer_pictures.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import typer

from mix_core.cli import infer_pictures as pictures
from mix_core.cli import model_options as options
from mix_core.errors import BadInputError, ConfigError, MixError

PREDICTION = "pred.jpg"
"""The picture's name in --output_dir, as Qwen-VL's run_predict.py has it."""

Prompt = Annotated[
    str | None,
    typer.Option("--prompt", "--text", "--question", help="The question; <image> marks a picture's place."),
]
Images = Annotated[
    list[str] | None,
    typer.Option(
        *("--image", "--input_image", "--image_path", "--image_file"), help="Path or address; repeatable."
    ),
]
Videos = Annotated[
    list[str] | None, typer.Option("--video", "--video_file", help="Path or address; repeatable.")
]
DrawOn = Annotated[int | None, typer.Option("--draw_on", help="Which picture to draw on; the last.")]
OutputDir = Annotated[str | None, typer.Option("--output_dir", help=f"Draw {PREDICTION} in this folder.")]
OnBad = Annotated[
    str, typer.Option("--on_bad_sample", help="error, or skip: a bad row gets a line with its error.")
]


def register(app: typer.Typer) -> None:
    app.command("infer")(infer)


def infer(
    model: options.Model,
    prompt: Prompt = None,
    image: Images = None,
    video: Videos = None,
    fps: Annotated[float | None, typer.Option(help="Pictures taken of a second of video.")] = None,
    batch: Annotated[str | None, typer.Option(help="JSON lines or list of rows, instead.")] = None,
    out: Annotated[str | None, typer.Option(help="Answers to --batch, as JSON lines; or a picture.")] = None,
    batch_size: Annotated[int, typer.Option("--batch_size", help="Rows answered at once.")] = 8,
    on_bad_sample: OnBad = "error",
    device: options.Device = None,
    simulate: options.Simulate = False,
    kernels: options.Kernels = "auto",
    dtype: options.Dtype = None,
    weights: options.Weights = None,
    lora: options.Lora = None,
    seed: options.Seed = 0,
    max_new_tokens: options.MaxNewTokens = 512,
    temperature: options.Temperature = 0.0,
    top_k: options.TopK = 0,
    top_p: options.TopP = 1.0,
    stop: options.Stop = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object, nothing else.")] = False,
    draw: Annotated[str | None, typer.Option(help="Write the picture with the answer's boxes.")] = None,
    draw_on: DrawOn = None,
    output_dir: OutputDir = None,
    visual: Annotated[str | None, typer.Option(help="false: draw nothing in --output_dir.")] = None,
    vae: pictures.Vae = None,
    unet: pictures.Unet = None,
    config: pictures.Config = None,
    negative_prompt: pictures.NegativePrompt = None,
    num_images: pictures.NumImages = 1,
    steps: pictures.Steps = None,
    guidance: pictures.Guidance = None,
    width: pictures.Width = None,
    height: pictures.Height = None,
    init_image: pictures.InitImage = None,
    mask: pictures.Mask = None,
    strength: pictures.Strength = None,
    scheduler: pictures.Scheduler = None,
    tile: pictures.Tile = None,
    devices: Annotated[
        str | None, typer.Option(help="One rank on each of these devices, as 0,1; they share every layer.")
    ] = None,
    tensor_parallel_degree: Annotated[
        int, typer.Option("--tensor_parallel_degree", help="How many devices share; as many as --devices.")
    ] = 1,
) -> None:
    """Answer a question about pictures, a video or text, or all questions of a file; or draw pictures.

    The model decides: a text-to-image model draws what --prompt says into --out.
    """
    given = dict(locals())  # every option by its name
    from mix_core.cli.output import only_results_on_stdout

    loading = options.loading(device, simulate, kernels, dtype, weights, lora)
    with only_results_on_stdout(as_json) as write:
        if pictures.draws_pictures(given):
            if devices is not None:
                raise ConfigError("--devices shares the layers of models that answer; leave it out to draw")
            write(pictures.draw(given, loading, check_picture_path))
        else:
            answer_alone_or_together(given, loading, write)


def answer_alone_or_together(
    given: dict[str, Any], loading: dict[str, Any], write: Callable[[str], None]
) -> None:
    """Answer here, start the ranks that answer, or be one of them. Raises MixError."""
    import os

    from mix_core.cli import infer_ranks as ranks
    from mix_core.device.ranks import job_of

    launch, job = ranks.asked_for(given), job_of(os.environ)
    if launch is not None:
        write(ranks.answered_on_ranks(launch, given))
        return
    if job.ranks == 1 or given["tensor_parallel_degree"] <= 1:
        write(answered(given, loading))
        return
    try:
        loading = loading | {"tensor_parallel_degree": given["tensor_parallel_degree"]}
        ranks.leave(job, answered(ranks.as_rank(job, given), loading))
    except MixError as error:
        ranks.tell(job, error)
        raise


def answered(given: dict[str, Any], loading: dict[str, Any]) -> str:
    """What the command prints for a model that answers; `given`: its options by name."""
    drawing = Drawing(given["draw"], given["draw_on"], given["output_dir"], given["visual"])
    answering = options.answering(
        *(given[name] for name in ("max_new_tokens", "temperature", "top_k", "top_p", "seed", "stop"))
    )
    how: dict[str, Any] = {"as_json": given["as_json"], "drawing": drawing}
    if given["batch"] is not None:
        refuse_with_batch(**{name: given[name] for name in ("prompt", "image", "video", "draw", "draw_on")})
        rows = Rows(given["batch"], given["out"], given["batch_size"], given["on_bad_sample"])
        return answer_rows(given["model"], rows, loading, answering, **how)
    if given["out"] is not None:
        raise ConfigError("--out belongs to --batch, or to a model that draws; one answer is printed")
    videos = given["video"] or []
    videos = videos if given["fps"] is None else [{"video": one, "fps": given["fps"]} for one in videos]
    asked = Asked(given["prompt"], given["image"] or [], videos)
    return answer(given["model"], asked, loading, answering, **how)


@dataclass(frozen=True)
class Asked:
    """One question."""

    prompt: str | None
    images: list[str]
    videos: list[Any]


@dataclass(frozen=True)
class Rows:
    """A file of questions."""

    batch: str
    out: str | None
    batch_size: int
    on_bad_sample: str


@dataclass(frozen=True)
class Drawing:
    """What the options say about drawing."""

    file: str | None
    number: int | None
    folder: str | None
    visual: str | None

    def path(self) -> str | None:
        """The file to draw in. `--visual true` alone draws where run_predict.py does, in output/pred.jpg."""
        import os

        if self.file is not None and self.folder is not None:
            raise ConfigError("--draw and --output_dir both say where to draw; give one")
        if self.file is not None:
            return self.file
        folder = self.into_folder()
        return None if folder is None else os.path.join(folder, PREDICTION)

    def into_folder(self) -> str | None:
        """The folder to draw in, made if it is not there."""
        import os

        from mix_core.config_types import FALSE_WORDS, TRUE_WORDS

        word = None if self.visual is None else self.visual.lower()
        if word not in (None, *TRUE_WORDS, *FALSE_WORDS):
            raise ConfigError(f"--visual is {self.visual}, expected true or false")
        folder = self.folder or ("output" if word in TRUE_WORDS else None)
        if folder is None or word in FALSE_WORDS:
            return None
        try:
            os.makedirs(folder, exist_ok=True)
        except OSError as error:
            raise BadInputError(f"--output_dir {folder} cannot be made: {error.strerror}") from None
        return folder

    def picture(self, pictures: list[Any]) -> Any | None:
        """The picture to draw on, which boxes in pixels are of as well."""
        if self.number is None or not pictures:
            return pictures[-1] if pictures else None
        if not 1 <= self.number <= len(pictures):
            raise BadInputError(f"--draw_on is {self.number}, and there are {len(pictures)} picture(s)")
        return pictures[self.number - 1]


def refuse_with_batch(**given: Any) -> None:
    """Options of one question, which a file of questions does not take. Raises ConfigError."""
    for name, value in given.items():
        if value:
            raise ConfigError(f"--{name} and --batch exclude each other; the rows say what is asked")


def answer(
    model: str,
    asked: Asked,
    loading: dict[str, Any],
    answering: dict[str, Any],
    *,
    as_json: bool,
    drawing: Drawing,
) -> str:
    """What the command prints. What can be wrong with the arguments is found before paddle is imported."""
    import json
    import time

    from mix_core.data.images import load_image
    from mix_core.inference.batch import box_as_json, found_boxes
    from mix_core.inference.conversation import conversation
    from mix_core.inference.engine import load

    if asked.prompt is None and not asked.images and not asked.videos:
        raise ConfigError(
            "nothing is asked: give --prompt, with --image or --video if it is about one, or --batch"
        )
    prompt = asked.prompt or ""
    draw_to = drawing.path()
    picture_file = PictureFile(draw_to, has_picture=bool(asked.images), asked_for=drawing.file is not None)
    conversation(prompt, asked.images, asked.videos)  # places and pictures agree
    pictures = [load_image(source) for source in asked.images]
    picture = drawing.picture(pictures)
    engine = load(model, **loading)
    started = time.perf_counter()
    (result,) = engine.answer([prompt], [pictures], [asked.videos], **answering)
    seconds = time.perf_counter() - started
    boxes = found_boxes(result.text, engine, picture)
    if picture_file.path is not None:
        picture_file.write(picture, boxes)
    if not as_json:
        return result.text
    report = {
        "text": result.text,
        "boxes": [box_as_json(box) for box in boxes],
        "prompt_tokens": result.prompt_tokens,
        "new_tokens": result.new_tokens,
        "finish": result.finish,
        "seconds": round(seconds, 4),
        "device": engine.activation.place,
        "dtype": engine.dtype,
        "weights": engine.weights,
        "seed": answering["seed"],
        "drawn": picture_file.path if boxes else None,
    }
    return json.dumps(report, ensure_ascii=False)


def answer_rows(
    model: str,
    rows: Rows,
    loading: dict[str, Any],
    answering: dict[str, Any],
    *,
    as_json: bool,
    drawing: Drawing,
) -> str:
    """Answer a file of rows and say how many. Rows are checked before paddle is imported."""
    import json
    import os
    import time
    from pathlib import Path

    from mix_core.inference.batch import BatchRun, last_picture
    from mix_core.inference.engine import load

    if rows.out is None:
        raise ConfigError("--batch needs --out, a file for the answers")
    if rows.on_bad_sample not in ("error", "skip"):
        raise ConfigError(f"--on_bad_sample is {rows.on_bad_sample}, expected error or skip")
    folder = drawing.into_folder()

    def draw(question: Any, boxes: list[Any]) -> None:
        picture = last_picture(question.messages)
        if folder is not None and picture is not None and boxes:
            PictureFile(os.path.join(folder, f"row-{question.row:06d}.png"), has_picture=True).write(
                picture, boxes
            )

    run = BatchRun(Path(rows.batch), Path(rows.out), rows.batch_size, rows.on_bad_sample == "skip", draw)
    run.check()
    engine = load(model, **loading)
    started = time.perf_counter()
    counts = run.run(engine, **answering)
    seconds = time.perf_counter() - started
    if as_json:
        return json.dumps({**vars(counts), "out": rows.out, "seconds": round(seconds, 4)})
    before = f", {counts.done_before} were there before" if counts.done_before else ""
    bad = f", {counts.bad} bad row(s) skipped" if counts.bad else ""
    return f"{rows.out}: {counts.answered} row(s) answered{bad}{before}; {seconds:.1f} s"


def check_picture_path(option: str, path: str) -> None:
    """Raise BadInputError where a picture cannot be written there; `option` is named."""
    import os
    from pathlib import Path

    from PIL import Image

    Image.init()
    suffix = Path(path).suffix.lower()
    if Image.EXTENSION.get(suffix) not in Image.SAVE:
        raise BadInputError(f"{option} {path}: {suffix or 'no suffix'} is no picture format; give a .png")
    folder = Path(path).absolute().parent
    target = path if Path(path).exists() else folder
    if not folder.is_dir() or Path(path).is_dir() or not os.access(target, os.W_OK):
        raise BadInputError(f"{option} {path} cannot be written; give a file in a folder that can be")


class PictureFile:
    """Where --draw writes. Made before the model is loaded, so that a bad path costs no waiting."""

    def __init__(self, path: str | None, *, has_picture: bool, asked_for: bool = True) -> None:
        self.path = path if has_picture or asked_for else None
        if self.path is None or path is None:
            return
        if not has_picture:
            raise BadInputError("--draw needs a picture to draw on; give --image")
        check_picture_path("--draw", path)

    def write(self, picture: Any, boxes: list[Any]) -> None:
        import sys

        from mix_core.inference.drawing import draw, shown_labels

        if not boxes:
            print(f"no boxes in the answer, so {self.path} was not written", file=sys.stderr)
            return
        try:
            draw(picture, boxes).save(self.path)
        except OSError as error:
            raise BadInputError(f"--draw {self.path} cannot be written: {error}") from error
        print(f"{len(boxes)} box(es) drawn in {self.path}", file=sys.stderr)
        for box, shown in zip(boxes, shown_labels(boxes)):
            if box.label and shown.startswith("#") and shown != " ".join(box.label.split()):
                print(f"{shown} is {box.label}: no font here has its letters", file=sys.stderr)
