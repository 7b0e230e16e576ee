"""The pages of the service in a browser: a scan is dropped in headless Chromium, and pictures are taken.

    python benchmarks/service_pages.py MODEL SCAN.zip [--names NAME ...] [--pictures FOLDER] [--quick] [--json]

Each page is looked at at 1280 and 400 pixels, light and dark. ``serve-demo.png`` in the folder is the picture of the
docs, of the demo's model and its diseased chest. A request to another host, a console error, or a page wider than the
window fails. Needs Chromium and playwright-core (``scripts/tools``).
"""

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from live_service import Live
from machine import line, machine

SCRIPT = Path(__file__).with_suffix(".mjs")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("scan", type=Path, help="a zip")
    parser.add_argument("--names", nargs="+", default=[], help="of the model's classes")
    parser.add_argument("--pictures", type=Path, help="folder for the screenshots")
    parser.add_argument("--quick", action="store_true", help="one width and look of each page")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    node = shutil.which("node")
    if node is None or not (SCRIPT.parents[1] / "tests/browser/node_modules/playwright-core").is_dir():
        sys.exit("node or playwright-core is not here: scripts/tools installs them")
    found = machine()
    print(line(found))
    with tempfile.TemporaryDirectory() as name:
        live = Live(Path(name) / "live", args.model.resolve(), "", *(["--names", *args.names] if args.names else []))
        try:
            live.ready()
            folder = args.pictures or Path(name)
            folder.mkdir(parents=True, exist_ok=True)
            command = [node, SCRIPT, live.url, args.scan.resolve(), folder.resolve(), "quick" if args.quick else "all"]
            done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, timeout=300)
        finally:
            live.stop()
    if done.returncode:
        sys.exit(done.stderr)
    seen = json.loads(done.stdout)
    for one in seen["pages"]:
        print(f"{one['page']}: {one['views']} views")
    print(f"problems: {'; '.join(seen['problems']) or 'none'}")
    if args.json:
        print(json.dumps({"rows": seen["pages"], "ratios": {}, "machine": found}))
    sys.exit(bool(seen["problems"]))


if __name__ == "__main__":
    main()
