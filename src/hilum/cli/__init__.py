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
from hilum.findings import printable

VERBS = {
    "demo": ("Demo", "the whole way on a simulated cohort, written as real DICOM series"),
    "inspect": ("Inspect", "what lies under a path, series by series, and what is wrong with it"),
    "cohort": ("MakeCohort", "a folder of scans to a table of cases"),
    "advise": ("Advise", "what a table of cases asks for: its classes, and what to do about rare ones"),
    "config": ("MakeConfig", "a config file with every setting explained, for a table if one is given"),
    "augment": ("LookAtAugmentation", "what a config's random changes do to a scan, as a page of pictures"),
    "plan": ("MakePlan", "what a config will take on this machine: memory, steps and time"),
    "prepare": ("Prepare", "every case of a config into the store"),
    "store": ("ShowStore", "what a store of prepared samples holds, and whether it is whole"),
    "train": ("Train", "a config, or a table alone, to a trained and tested model"),
    "evaluate": ("Evaluate", "a model on a table of cases it has not seen"),
    "predict": ("Predict", "a model on one scan, or on a table without labels"),
    "export": ("Export", "a model as one ONNX or PyTorch file for other programs"),
}
"""Each verb's class, in the module of its name, and what it does."""


def main(args: Sequence[str] | None = None) -> int:
    """Run a verb: 0 if done, 1 on bad input with one line on stderr; bad flags exit with 2."""
    args = list(sys.argv[1:] if args is None else args)
    for stream in (sys.stdout, sys.stderr):  # a terminal may lack letters, and a file's name may be no text
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
    except BrokenPipeError:  # the reader of our output went away, as head does
        sys.stderr.close()
        return 0
    except (OSError, MemoryError) as exc:  # a full disk, a folder without permission, a grid beyond all memory
        sys.stderr.write(f"hilum: {type(exc).__name__}: {' '.join(str(exc).split())[:300]}\n")
        return 1
    finally:
        logger.removeHandler(handler)


@contextmanager
def _ended_tidily() -> Iterator[None]:
    """A signal to end is an exit like others, so that unpacked scans do not stay in the temporary folder."""

    def end(number: int, _frame: object) -> None:
        sys.exit(128 + number)

    signals = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    if threading.current_thread() is not threading.main_thread():
        signals = []
    before = {n: signal.signal(n, end) for n in signals if signal.getsignal(n) is not signal.SIG_IGN}  # nohup's point
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
    args = ["--help" if arg == "--help-all" else arg for arg in args]
    command = tyro.cli(kind, args=args, prog=f"hilum {verb}")
    if hasattr(command, "with_file"):  # the file's settings become the flags' defaults
        command = command.with_file(args)
    return int(command.run())


def _overview() -> str:
    width = max(map(len, VERBS))
    lines = "".join(f"  hilum {verb:<{width}}  {what}\n" for verb, (_, what) in VERBS.items())
    return (
        "Chest CT scans and a table of labels in, a 3D ResNet classifier that can be trusted out.\n"
        f"Not a medical device.\n\n{lines}\nhilum VERB --help lists the flags of a verb.\n"
    )
