"""Pages in a browser: opens reports from disk in headless Chromium, and looks for requests and console errors.

    python benchmarks/pages.py PAGE.html [PAGE.html ...] [--pictures FOLDER] [--json]

Each page is opened at 1280 and 400 pixels, light and dark, and printed to PDF. A request of the page to any host, a
console error, a page wider than the window or one of more than 5 MB fails. Needs Chromium (``chromium`` on the PATH).
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import line, machine

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--no-first-run", "--hide-scrollbars", "--enable-logging=stderr",
)  # fmt: skip
DARK = ("--force-dark-mode", "--enable-features=WebContentsForceDark:inversion_method/none")
LARGEST_MB = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pages", nargs="+", type=Path)
    parser.add_argument("--pictures", type=Path, help="folder for the screenshots and the PDF")
    parser.add_argument("--height", type=int, default=2600, help="of the screenshots")
    parser.add_argument("--quick", action="store_true", help="one view of each page: that it runs")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    browser = shutil.which("chromium") or shutil.which("chromium-browser")
    if browser is None:
        sys.exit("Chromium is not on the PATH")
    found = machine()
    print(line(found))
    rows = [_looked_at(browser, page.resolve(), args.pictures, args.height, quick=args.quick) for page in args.pages]
    for row in rows:
        print(f"{row['page']}: {row['mb']:.2f} MB, {row['views']} views, problems: {row['problems'] or 'none'}")
    if args.json:
        print(json.dumps({"rows": rows, "ratios": {}, "machine": found}))
    sys.exit(any(row["problems"] for row in rows))


def _looked_at(browser: str, page: Path, pictures: Path | None, height: int, *, quick: bool) -> dict[str, Any]:
    problems: list[str] = []
    size = page.stat().st_size / 1e6
    if size > LARGEST_MB:
        problems.append(f"{size:.1f} MB")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) if pictures is None else pictures
        folder.mkdir(parents=True, exist_ok=True)
        stem = f"{page.parent.parent.name}-{page.stem}"
        for width in (400,) if quick else (1280, 400):
            for look, more in {"light": (), "dark": DARK}.items() if not quick else [("light", ())]:
                picture = folder / f"{stem}-{width}-{look}.png"
                view = [*more, f"--window-size={width},{height}", f"--screenshot={picture}"]
                problems += _open(browser, page, view, Path(name))
            problems += _too_wide(browser, page, width, Path(name))
        if not quick:
            problems += _open(browser, page, [f"--print-to-pdf={folder / f'{stem}.pdf'}"], Path(name))
    return {"page": stem, "mb": round(size, 2), "views": 1 if quick else 5, "problems": sorted(set(problems))}


def _open(browser: str, page: Path, view: list[str], folder: Path) -> list[str]:
    """Open a page once; the requests that it made to hosts, and the errors that it wrote to the console."""
    log = folder / "net.json"
    log.unlink(missing_ok=True)
    command = [browser, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--log-net-log={log}", *view, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    errors = [one for one in done.stderr.splitlines() if "CONSOLE" in one]
    hosts = sorted(_requested(log)) if log.exists() else ["the log of the network is missing"]
    return [f"console: {one[-160:]}" for one in errors] + [f"request: {url[:120]}" for url in hosts]


def _requested(log: Path) -> set[str]:
    """Addresses that the page asked for; what the browser itself asks its maker has no origin."""
    urls = set()
    for text in log.read_text(errors="replace").splitlines():
        match = re.search(r'"initiator":"([^"]*)"', text)
        if match and match[1] != "not an origin":
            urls |= set(re.findall(r'"url":"(https?://[^"]+)"', text))
    return urls


def _too_wide(browser: str, page: Path, width: int, folder: Path) -> list[str]:
    """Whether the page is wider than a window, so that it scrolls sideways as a whole."""
    probe = folder / "probe.html"
    text = page.read_text(encoding="utf-8")
    script = "<script>document.title = 'WIDTH ' + document.documentElement.scrollWidth + ' ' + innerWidth</script>"
    probe.write_text(text.replace("</body>", f"{script}</body>"), encoding="utf-8")
    command = [browser, *FLAGS, f"--user-data-dir={folder / 'profile'}", f"--window-size={width},900", "--dump-dom"]
    done = subprocess.run([*command, probe.as_uri()], capture_output=True, text=True, timeout=120, check=False)
    match = re.search(r"<title>WIDTH (\d+) (\d+)</title>", done.stdout)
    if match is None:
        return ["the width of the page cannot be measured"]
    return [f"{match[1]} pixels wide in a window of {match[2]}"] if int(match[1]) > int(match[2]) else []


if __name__ == "__main__":
    main()
