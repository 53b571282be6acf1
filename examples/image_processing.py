"""Pictures on their way to a gallery: slow work on threads, progress while it runs, and files that do not stay behind.

    python examples/image_processing.py

What to look for:
- the handlers are plain `def` functions that compute and block. Each runs on a thread, so two pictures are worked on side by side.
- results hold names and sizes, not pixels: what is big belongs in files.
- `ctx.progress` says how far a step is. It can be read while the step runs, and is not stored.
- the camera's line drops once: that is tried again. A file that is no picture at all is not (`NonRetryable`).
- each step that leaves a file behind names the function that removes it: when the gallery is full, nothing is left in `work/`.
"""

from __future__ import annotations

import asyncio
import shutil
import struct
import tempfile
import zlib
from pathlib import Path

from flux import Context, FluxEngine, NonRetryable, Retry, RunHandle, RunResult, create_workflow

HOME = Path(tempfile.gettempdir())  # with camera/, work/ and gallery/ in it; main() chooses a fresh directory
MARK = ("X.X..XXX", "X.X...X.", "XXX...X.", "X.X...X.", "X.X..XXX")  # the watermark, a character a pixel

Picture = list[bytearray]  # rows of pixels, three bytes each


def write_png(path: Path, rows: Picture) -> None:
    """The smallest PNG there is, with nothing but the standard library: 8 bits of red, green and blue, no row filtered."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", len(rows[0]) // 3, len(rows), 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))


def read_png(path: Path) -> Picture:
    """Reads what `write_png` writes."""
    data = path.read_bytes()
    if not data.startswith(b"\x89PNG"):
        raise NonRetryable(f"{path.name} is not a picture")
    width, height = struct.unpack(">II", data[16:24])
    pixels = zlib.decompressobj().decompress(data[data.index(b"IDAT") + 4 :])
    return [bytearray(pixels[at + 1 : at + 1 + width * 3]) for at in range(0, height * (width * 3 + 1), width * 3 + 1)]


def size(rows: Picture) -> str:
    return f"{len(rows[0]) // 3} x {len(rows)}"


def work_file(ctx: Context[str], step: str) -> Path:
    """Where a step of this run leaves its picture: every attempt writes the same file, so a second one does no harm."""
    return HOME / "work" / f"{ctx.run_id}-{step}.png"


def download(ctx: Context[str]) -> str:
    if ctx.attempt == 1 and ctx.input == "lake.png":
        raise ConnectionError("the camera's line dropped")
    shutil.copyfile(HOME / "camera" / ctx.input, work_file(ctx, "download"))
    return size(read_png(work_file(ctx, "download")))


def resize(ctx: Context[str]) -> str:
    """Half the size: each new pixel is the mean of four."""
    rows = read_png(work_file(ctx, "download"))
    small: Picture = []
    for y in range(0, len(rows) - 1, 2):
        upper, lower = rows[y], rows[y + 1]
        spots = [x + colour for x in range(0, len(upper) - 3, 6) for colour in range(3)]
        small.append(bytearray((upper[x] + upper[x + 3] + lower[x] + lower[x + 3]) // 4 for x in spots))
        ctx.progress(y / len(rows), f"row {y} of {len(rows)}")
    write_png(work_file(ctx, "resize"), small)
    return size(small)


def watermark(ctx: Context[str]) -> str:
    """Some pixels in the corner, half white."""
    rows = read_png(work_file(ctx, "resize"))
    spots = [(y - 7, x) for y, line in enumerate(MARK) for x, dot in enumerate(line) if dot == "X"]
    for y, x in spots:
        rows[y][x * 3 - 30 : x * 3 - 27] = bytes((255 + value) // 2 for value in rows[y][x * 3 - 30 : x * 3 - 27])
    write_png(work_file(ctx, "watermark"), rows)
    return f"{len(spots)} pixels marked"


def upload(ctx: Context[str]) -> str:
    """The effect outside. Under its final name a picture is whole or not there: it is copied beside it, and moved."""
    target = HOME / "gallery" / ctx.input
    if not target.exists() and len(list(target.parent.glob("*.png"))) >= 2:
        raise NonRetryable(f"the gallery has no room for {ctx.input}")
    shutil.copyfile(work_file(ctx, "watermark"), target.with_suffix(".new"))
    return f"gallery/{target.with_suffix('.new').replace(target).name}"


def remove(ctx: Context[str]) -> None:
    """The undoing of every step that leaves a file; `ctx.step` is the step that is undone. There may be nothing to remove."""
    work_file(ctx, ctx.step).unlink(missing_ok=True)


def tidy(ctx: Context[str]) -> None:
    for step in ("download", "resize", "watermark"):
        work_file(ctx, step).unlink(missing_ok=True)


pipeline = (
    create_workflow("pipeline")
    .input(str)
    # "started": undone also where every attempt raised, for a file may be there that is no picture.
    .step("download", download, compensate=remove, compensate_when="started", retries=2, retry=Retry(initial=0.05))
    .step("resize", resize, compensate=remove, timeout=60)
    .step("watermark", watermark, compensate=remove)
    .commit("upload", upload)
    .step("tidy", tidy)
)


def take_pictures() -> None:
    for folder in ("camera", "work", "gallery"):
        (HOME / folder).mkdir()
    for number, name in enumerate(("hill", "lake", "moon")):
        rows = [bytearray(b"".join(bytes((x % 256, y % 256, number * 90)) for x in range(1200))) for y in range(800)]
        write_png(HOME / "camera" / f"{name}.png", rows)
    (HOME / "camera" / "note.png").write_text("a shopping list")


async def watch(handle: RunHandle) -> RunResult:
    """What a page with a progress bar does: look now and then."""
    seen = 0.0
    while not (run := await handle.details()).finished:
        for path, progress in run.progress.items():
            if progress.fraction >= seen + 0.25:
                seen = progress.fraction
                print(f"   {run.id}: {path} {seen:.0%}, {progress.message}")
        await asyncio.sleep(0.01)
    return run


async def main() -> None:
    take_pictures()
    url = f"sqlite:///{(HOME / 'runs.db').as_posix()}"
    async with FluxEngine(url, workflows=[pipeline]) as engine, engine.worker(concurrency=2):
        for batch in (("hill.png", "lake.png"), ("moon.png", "note.png")):
            handles = [await engine.start(pipeline, name, id=name.removesuffix(".png")) for name in batch]
            for run in await asyncio.gather(*map(watch, handles)):
                print(f"{run.id}: {run.status}" + (f", because {run.error}" if run.error else ""))
                for line in run.history:
                    print(f"   {line.name:10} {line.status:12} attempts: {line.attempts}  {line.result or ''}".rstrip())
    pictures = [f"{path.name} ({size(read_png(path))})" for path in sorted((HOME / "gallery").iterdir())]
    print(f"gallery/ holds {', '.join(pictures)}; in work/ there are {len(list((HOME / 'work').iterdir()))} files")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as directory:
        HOME = Path(directory)
        asyncio.run(main())
