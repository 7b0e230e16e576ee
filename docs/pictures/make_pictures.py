"""Makes the pictures of the documents, from the run of the demo and from real CT.

Usage: python docs/pictures/make_pictures.py RUN_OF_THE_DEMO [PICTURE.png ...]

RUN_OF_THE_DEMO is the folder of `scripts/demo`. Without names all pictures are made; those of real CT need the folder
HILUM_DATA. Chromium and playwright-core (scripts/tools) take pictures of pages.
"""

import base64
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw, ImageFont

import hilum
from hilum.cli import main as command
from hilum.drawing import write
from hilum.pages import png
from hilum.predicting.explain import explain
from hilum.predicting.explain.check import randomised
from hilum.predicting.explain.planes import planes_of
from hilum.preparing.lungs.overlay import overlay

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
NODULE_MM, TUMOUR_MM = (-57.44, 131.23, -520.36), (41.76, 204.93, -204.0)
"""LPS mm of the nodule of LIDC-IDRI-0314, and of the tumour of Lung_Dx-A0001, as their readers marked them."""

NAMES = ("healthy", "diseased")


def main(words: list[str]) -> None:
    """Make the pictures that are named, or all."""
    if not words or not (Path(words[0]) / "run" / "model").is_dir():
        sys.exit((__doc__ or "").strip())
    demo, wanted = Path(words[0]).resolve(), words[1:] or list(PICTURES)
    unknown = sorted(set(wanted) - set(PICTURES))
    if unknown:
        sys.exit(f"there is no picture {', '.join(unknown)}; there are: {', '.join(PICTURES)}")
    makers = {PICTURES[name]: [one for one in wanted if PICTURES[one] is PICTURES[name]] for name in wanted}
    with tempfile.TemporaryDirectory() as folder:
        for make, names in makers.items():
            make(demo, Path(folder))
            for name in names:
                shutil.copyfile(Path(folder) / name, HERE / name)
                print(f"{name}: {(HERE / name).stat().st_size / 1000:.0f} kB")


def page_of_a_scan(demo: Path, out: Path) -> None:
    """The page of ``hilum view`` of the demo's new scan, its planes through the peak of the map."""
    page = out / "view.html"
    _run("view", _new_scan(demo), "--model", demo / "run/model", "--names", *NAMES, "--out", page)
    _shoot([{"page": page, "out": out / "view-demo.png", "click": "[data-lps]"}])


def page_of_the_service(demo: Path, out: Path) -> None:
    """The page of a job of ``hilum serve``, by the benchmark that looks at all its pages."""
    archive = shutil.make_archive(str(out / "scan"), "zip", _new_scan(demo))
    script = ROOT / "benchmarks/service_pages.py"
    names = ["--names", *NAMES, "--quick", "--pictures", out]
    subprocess.run(list(map(str, [sys.executable, script, demo / "run", archive, *names])), check=True)  # noqa: S603


def report(demo: Path, out: Path) -> None:
    """The report of the demo: light and dark, on a telephone, and as it is printed."""
    page = demo / "run/evaluation/report.html"
    looks: dict[str, dict[str, Any]] = {
        "report-demo.png": {"height": 1500},
        "report-demo-dark.png": {"height": 1500, "scheme": "dark"},
        "report-demo-narrow.png": {"width": 400, "height": 1500},
        "report-demo-print.png": {"width": 800, "height": 1130, "media": "print"},
    }
    _shoot([{"page": page, "out": out / name, **look} for name, look in looks.items()])


def maps(demo: Path, out: Path) -> None:
    """What speaks for disease in the demo's new scan, and the map of the same network after its weights are lost."""
    predictor = hilum.Predictor(demo / "run/model")
    scan = hilum.read(_new_scan(demo))
    sample = predictor.prepare(scan)
    network = predictor.network
    for name, title in (("explain-demo.png", "what speaks for disease"), ("explain-lost.png", "weights lost")):
        (found,) = explain(predictor, sample)
        least = 0.5 if name == "explain-demo.png" else 0.0
        write(planes_of(found, scan, title=title, foot="a simulated chest", least=least), out / name)
        predictor.network = list(randomised(network))[-1][1]


def lungs(_demo: Path, out: Path) -> None:
    """Lungs and lung fields of two real scans."""
    data = Path(os.environ.get("HILUM_DATA", ROOT.parent / "shared" / "data"))
    for name, point in (("lidc-0314", NODULE_MM), ("lung-dx-a0001", TUMOUR_MM)):
        scan = hilum.read(data / name)
        planes = overlay(scan, hilum.segment_lungs(scan), point_mm=point)
        (out / f"lungs-{name}.png").write_bytes(base64.b64decode(png(planes)))


def augmentation(_demo: Path, out: Path) -> None:
    """Axial and coronal planes of changes alone, from the page of ``hilum augment``."""
    scan, _ = hilum.simulate_scan(0)
    scan.write(out / "chest.nii.gz")
    _run("augment", out / "chest.nii.gz", "--augment.preset", "strong", "--number", 1, "--out", out / "augment.html")
    page = (out / "augment.html").read_text(encoding="utf-8")
    shown = {"as it is": [_picture(one) for one in re.findall(r"background-image: url\((data:[^)]+)\)", page)]}
    for part in page.split("<h3><code>")[1:]:
        name, cards = part.partition("<")[0], part.split("<article>")[1:]
        changed = [one for one in (re.findall(r'src="(data:[^"]+)"', card) for card in cards) if one]
        for number, planes in enumerate(changed):
            way = f", {number + 1}" if len(changed) > 1 else ""
            shown[f"{name}{way}"] = [_picture(one) for one in planes]
    cells = [_labelled(name, shown[name][:2]) for name in ALONE]
    width, height = (max(cell.size[axis] for cell in cells) for axis in (0, 1))
    sheet = Image.new("L", (4 * width, -(-len(cells) // 4) * height), 255)
    for number, cell in enumerate(cells):
        sheet.paste(cell, (number % 4 * width, number // 4 * height))
    sheet.save(out / "augmentation.png", optimize=True)


ALONE = ("as it is", "rotation", "elastic", "noise, 1", "noise, 2", "thickness", "width, 1", "cutout")
"""Changes in the picture of augmentation; of some the page shows two ways."""


PICTURES: dict[str, Callable[[Path, Path], None]] = {
    "view-demo.png": page_of_a_scan,
    "serve-demo.png": page_of_the_service,
    "report-demo.png": report,
    "report-demo-dark.png": report,
    "report-demo-narrow.png": report,
    "report-demo-print.png": report,
    "explain-demo.png": maps,
    "explain-lost.png": maps,
    "lungs-lidc-0314.png": lungs,
    "lungs-lung-dx-a0001.png": lungs,
    "augmentation.png": augmentation,
}


def _new_scan(demo: Path) -> Path:
    (scan,) = (demo / "new/scans").iterdir()
    return scan


def _run(*words: object) -> None:
    if command(list(map(str, words))):
        sys.exit(f"hilum {' '.join(map(str, words))} failed")


def _shoot(pictures: Iterable[dict[str, Any]]) -> None:
    spec = json.dumps([{key: str(one) if isinstance(one, Path) else one for key, one in p.items()} for p in pictures])
    subprocess.run(["node", str(HERE / "take_pictures.mjs"), spec], check=True)  # noqa: S603, S607


def _picture(source: str) -> Image.Image:
    """A picture of a page, of its data URL."""
    picture = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2]))).convert("L")
    return picture.resize((230, round(230 * picture.height / picture.width)))


def _labelled(name: str, planes: list[Image.Image]) -> Image.Image:
    """Planes below one another, with a name above them."""
    cell = Image.new("L", (planes[0].width + 8, sum(plane.height + 8 for plane in planes) + 28), 255)
    ImageDraw.Draw(cell).text((4, 6), name, fill=0, font=ImageFont.load_default(15))
    top = 26
    for plane in planes:
        cell.paste(plane, (4, top))
        top += plane.height + 8
    return cell


if __name__ == "__main__":
    main(sys.argv[1:])
