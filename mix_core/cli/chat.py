"""`mix-core chat`: a conversation about pictures, on a terminal or from a pipe."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Annotated, Any

import typer

from mix_core.cli import model_options as options

HELP = """\
/image PATH   show a picture (a path or an address) with the next message; repeat it for several
/video PATH   show a video so
/draw FILE    write the last picture with the boxes of the last answer
/clear        forget the conversation
/lora NAME    answer with this adapter from now on; without NAME with the model alone
/help         this text
/exit         leave, as Ctrl-D does
Ctrl-C stops an answer. <image> in a message marks a picture's place; // begins a message with a slash."""


def register(app: typer.Typer) -> None:
    @app.command("chat")
    def chat(
        model: options.Model,
        image: Annotated[
            list[str] | None, typer.Option("--image", "--image_path", help="Shown with the first message.")
        ] = None,
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
    ) -> None:
        """Talk with a model; answers appear as they are written. From a pipe, each line is a message."""
        import sys

        from mix_core.inference.engine import load

        engine = load(model, **options.loading(device, simulate, kernels, dtype, weights, lora))
        on_terminal = sys.stdin.isatty() and sys.stdout.isatty()
        sys.stdout.reconfigure(errors="replace")  # type: ignore[union-attr]
        answering = options.answering(max_new_tokens, temperature, top_k, top_p, seed, stop)
        conversation = Conversation(engine, **answering)
        for source in image or []:
            conversation.show_picture(source)
        if on_terminal:
            print(f"{model} on {engine.activation.place}, {engine.weights}. /help lists the commands.")
        talk(conversation, terminal_lines() if on_terminal else piped_lines(), show, forgiving=on_terminal)


class Conversation:
    """The turns so far, and pictures that wait for the next message."""

    def __init__(self, engine: Any, **generation: Any) -> None:
        self.engine = engine
        self.generation = generation
        self.turns: list[dict[str, Any]] = []
        self.waiting: list[Any] = []
        self.waiting_videos: list[str] = []
        self.picture: Any = None
        """The last picture shown, which boxes are of."""

    def clear(self) -> None:
        self.turns, self.waiting, self.waiting_videos, self.picture = [], [], [], None

    def show_picture(self, source: str) -> str:
        """Keep a picture for the next message; return a line about it. Raises DataError."""
        from mix_core.data.images import load_image

        picture = load_image(source)
        self.waiting.append(picture)
        self.picture = picture
        return f"[{source}: {picture.width} x {picture.height}, shown with your next message]"

    def show_video(self, source: str) -> str:
        """Keep a video for the next message; it is opened then. Raises DataError where there is no such
        file."""
        from pathlib import Path

        from mix_core.data.fetch import is_url
        from mix_core.errors import DataError

        if not is_url(source) and not Path(source).is_file():
            raise DataError(f"video {source}: there is no such file")
        self.waiting_videos.append(source)
        return f"[{source}: shown with your next message]"

    def draw(self, path: str) -> str:
        """Write the last picture with the boxes of the last answer. Raises BadInputError."""
        from mix_core.cli.infer import PictureFile
        from mix_core.inference.batch import found_boxes

        file = PictureFile(path, has_picture=self.picture is not None)
        answer = self.turns[-1]["content"] if self.turns else ""
        boxes = found_boxes(answer, self.engine, self.picture)
        if not boxes:
            return "[no boxes in the last answer]"
        file.write(self.picture, boxes)
        return f"[{path}: {len(boxes)} box(es)]"

    def ask(self, text: str) -> Iterator[str]:
        """Send a message; give the answer in pieces.

        Stopped before its end, what was given out stays as the answer; stopped before that, all is as it was.
        """
        from mix_core.inference.conversation import conversation

        asked = conversation(text, self.waiting, self.waiting_videos)
        pieces: list[str] = []
        answered = False
        try:
            for piece in self.engine.stream(self.turns + asked, **self.generation):
                pieces.append(piece)
                answered = True
                yield piece
            answered = True
        finally:
            if answered:
                self.waiting, self.waiting_videos = [], []
                self.turns += [*asked, {"role": "assistant", "content": "".join(pieces)}]


def talk(
    conversation: Conversation, lines: Iterator[str], write: Callable[[str], None], *, forgiving: bool
) -> None:
    """Take lines until they end or say /exit.

    Raises:
        BadInputError: a wrong command or picture, unless `forgiving`, which shows it and goes on.
    """
    from mix_core.errors import BadInputError

    for line in lines:
        text = line.strip()
        if text == "/exit":
            return
        try:
            if text.startswith("/") and not text.startswith("//"):
                write(command(conversation, text) + "\n")
            elif text:
                reply(conversation, text.removeprefix("/"), write)
        except BadInputError as error:
            if not forgiving:
                raise
            write(f"error: {error}\n")


def command(conversation: Conversation, text: str) -> str:
    """Do what a line that begins with a slash says; return what to show."""
    from mix_core.errors import BadInputError

    name, _, rest = text.partition(" ")
    rest = rest.strip().strip("'\"")
    if name == "/image" and rest:
        return conversation.show_picture(rest)
    if name == "/video" and rest:
        return conversation.show_video(rest)
    if name == "/draw" and rest:
        return conversation.draw(rest)
    if name == "/clear":
        conversation.clear()
        return "[forgotten]"
    if name == "/help":
        return HELP
    if name == "/lora":
        conversation.engine.set_adapter(rest or None)
        return f"[{rest or 'the model alone'}]"
    if name in ("/image", "/video", "/draw"):
        raise BadInputError(f"{name} needs a path")
    raise BadInputError(
        f"{name} is no command; there are /image PATH, /video PATH, /draw FILE, /clear, /lora NAME, /help "
        "and /exit"
    )


def reply(conversation: Conversation, text: str, write: Callable[[str], None]) -> None:
    answer = conversation.ask(text)
    try:
        for piece in answer:
            write(piece)
    except KeyboardInterrupt:
        answer.close()
        write(" [stopped]")
    write("\n")


def terminal_lines() -> Iterator[str]:
    """Lines typed at a prompt, with editing and history where Python has them."""
    import contextlib

    with contextlib.suppress(ImportError):
        import readline  # noqa: F401 (input() uses it)
    while True:
        try:
            line = input("> ")
        except EOFError:
            print()
            return
        except KeyboardInterrupt:
            print()
            raise
        yield line


def piped_lines() -> Iterator[str]:
    import io
    import sys

    yield from io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8", errors="replace")


def show(text: str) -> None:
    """Print at once; control characters, with which an answer could steer the terminal, are made visible."""
    import sys

    shown = "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)
    sys.stdout.write(shown)
    sys.stdout.flush()
