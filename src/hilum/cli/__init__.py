"""The command line: one file and one dataclass for each verb; its fields are the flags."""

import importlib
import io
import logging
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from hilum.errors import HilumError
from hilum.files import user_path
from hilum.findings import printable

VERBS = {
    "demo": ("Demo", "run the whole pipeline on a simulated cohort, written as real DICOM series"),
    "inspect": ("Inspect", "list the scans under a path, series by series, with their findings"),
    "convert": ("Convert", "convert scans to NIfTI, NRRD or MetaImage, with findings and a table of all"),
    "lungs": ("MaskLungs", "write masks of the lungs of scans, and their volumes"),
    "cohort": ("MakeCohort", "make a table of cases from a folder of scans"),
    "advise": ("Advise", "describe the classes of a table, and advise settings for rare ones"),
    "audit": ("AuditCohort", "look for leaks in a table, and for what gives its labels away"),
    "config": ("MakeConfig", "print a config file with every setting explained, planned for a table if given"),
    "augment": ("ShowAugmentation", "show the random changes of a config on a scan, as a page of pictures"),
    "plan": ("MakePlan", "estimate memory, steps and time of a config on this machine"),
    "prepare": ("Prepare", "prepare every case of a config into the store"),
    "store": ("ShowStore", "list or verify a store of prepared samples"),
    "train": ("Train", "train and test a model from a config, or from a table alone"),
    "ensemble": ("MakeEnsemble", "make one calibrated ensemble of several runs on the same cases"),
    "evaluate": ("Evaluate", "judge a model on cases that it has not seen"),
    "compare": ("Compare", "compare a model with others, or with columns of the table, on the same cases"),
    "report": ("MakeReport", "write the report of an evaluation as one HTML page"),
    "recalibrate": ("Recalibrate", "fit calibration and thresholds of a model anew on another site's cases"),
    "predict": ("Predict", "predict one scan, or a table without labels"),
    "explain": ("Explain", "show which parts of a scan a prediction depends on"),
    "view": ("View", "write one HTML file that shows a scan, its lungs and findings, and what a model says of it"),
    "serve": ("Serve", "serve models over HTTP, with a page, and beside a PACS"),
    "monitor": ("Monitor", "show what a service does: refusals, shares without a decision, drift from training"),
    "export": ("Export", "export a model as one ONNX or PyTorch file for other programs"),
    "env": ("ShowEnvironment", "describe the installation and the machine, for a bug report"),
}
"""Class of each verb, in the module of its name, and its description."""


def main(args: Sequence[str] | None = None) -> int:
    """Run a verb: 0 if done, 1 on bad input with one line on stderr; bad flags exit with 2."""
    args = list(sys.argv[1:] if args is None else args)
    for stream in (sys.stdout, sys.stderr):  # a terminal may lack characters, and file names may not be valid text
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    if not args or args[0] in ("-h", "--help"):
        sys.stdout.write(_overview())
        return 0 if args else 2
    if args[0] == "--version":
        from importlib.metadata import version

        sys.stdout.write(f"hilum {version('hilum')}\n")
        return 0
    if args[0] not in VERBS:
        sys.stderr.write(f"hilum: there is no verb {args[0]!r}; there are: {', '.join(VERBS)}\n")
        return 2
    handler = logging.StreamHandler()
    logger = logging.getLogger("hilum")
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        with _ended_tidily():
            return run(args[0], args[1:])
    except HilumError as exc:
        sys.stderr.write(f"hilum: {printable(' '.join(str(exc).split()))}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("hilum: stopped\n")
        return 130
    except BrokenPipeError:  # the reader of the output ended, as head does
        sys.stderr.close()
        return 0
    except (OSError, MemoryError) as exc:  # a full disk, a folder without permission, a grid too large for memory
        sys.stderr.write(f"hilum: {type(exc).__name__}: {' '.join(str(exc).split())[:300]}\n")
        return 1
    finally:
        logger.removeHandler(handler)


@contextmanager
def _ended_tidily() -> Iterator[None]:
    """Turn signals to end into SystemExit, so that temporary folders are removed."""

    def end(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        signals = []
    before = {n: signal.signal(n, end) for n in signals if signal.getsignal(n) is not signal.SIG_IGN}  # as under nohup
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def run(verb: str, args: Sequence[str]) -> int:
    """Parse the flags of one verb and run it; only that verb's module is imported."""
    import tyro

    from hilum.cli.arguments import renamed_flag

    renamed = renamed_flag(verb, args)
    if renamed:
        sys.stderr.write(f"hilum {verb}: {renamed}\n")
        return 2
    kind = getattr(importlib.import_module(f"hilum.cli.{verb}"), VERBS[verb][0])
    if hasattr(kind, "short_help") and {"-h", "--help"} & set(args):
        sys.stdout.write(kind.short_help())
        return 0
    args = [_with_home(arg) for arg in args]
    args = ["--help" if arg == "--help-all" else arg for arg in args]
    command = tyro.cli(kind, args=args, prog=f"hilum {verb}")
    if hasattr(command, "with_file"):  # the file's settings become the flags' defaults
        command = command.with_file(args)
    return int(command.run())


def _with_home(arg: str) -> str:
    """An argument in which ``~`` is the home folder, also where the shell leaves it alone, as in ``--out=~/x``."""
    flag, equals, value = arg.partition("=") if arg.startswith("--") else ("", "", arg)
    return f"{flag}{equals}{user_path(value)}" if value == "~" or value.startswith("~/") else arg


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = "".join(f"  hilum {verb:<{width}}  {what}\n" for verb, (_, what) in VERBS.items())
    return (
        "Chest CT scans and a table of labels in, a 3D ResNet classifier that can be trusted out.\n"
        f"Not a medical device.\n\n{lines}\nhilum VERB --help lists the flags of a verb.\n"
    )
