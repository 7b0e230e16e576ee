"""Wheel and sdist hold what belongs there, users' type checkers read the API, pages on releases fit the code."""

import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path

import pytest
import yaml
from package_contents import files_of_package, files_of_sdist, files_of_wheel, forbidden, problems

import hilum
from hilum.cli import arguments
from hilum.cohorts import audit, split_file
from hilum.deciding import model_folder
from hilum.judging.judge import EVALUATION_FORMAT
from hilum.predicting.explain import folder as explanation
from hilum.preparing import store
from hilum.serving import record
from hilum.serving.app import database, worker
from hilum.training import folds_plan, out_of_fold, run_record, state

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
EXTRAS = PROJECT["optional-dependencies"]
FOR_DEVELOPERS = {"bench", "docs", "test"}
NOT_FOLLOWED = (
    "SimpleITK torch.* matplotlib.* pandas.* scipy.* sklearn.* nibabel.* pydicom.* safetensors.* tensorboard.* "
    "jinja2.* lightning_fabric.* starlette.* uvicorn.* highdicom.* pynetdicom.* dicomweb_client.* requests.* captum.* "
    "onnx.* onnxscript.* onnxruntime.* prometheus_client.* tyro.* torchio.* monai.*"
)
"""Libraries whose own types mypy would take a minute to read."""


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> tuple[Path, Path]:
    """The wheel and the sdist."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("git is needed to know the files of the package")
    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(out), "-t", "sdist", "-t", "wheel"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    ((wheel,), (sdist,)) = out.glob("*.whl"), out.glob("*.tar.gz")
    return wheel, sdist


def test_the_wheel_holds_the_files_of_the_package_and_nothing_else(built):
    assert problems(*built, tracked=False) == []
    wheel = files_of_wheel(built[0])
    assert {"src/hilum/py.typed", "src/hilum/__init__.pyi", "src/hilum/serving/viewer/niivue.umd.js"} <= set(wheel)
    licences = {name.partition("/licenses/")[2] for name in wheel if "/licenses/" in name}
    assert licences == {"LICENSE", "src/hilum/serving/viewer/niivue.LICENSE.txt"}


def test_the_sdist_builds_and_tests_the_package_and_holds_no_evidence_or_pictures(built):
    sdist = set(files_of_sdist(built[1]))
    wanted = {"pyproject.toml", "README.md", "CHANGELOG.md", "LICENSE", "CITATION.cff", "constraints.txt"}
    assert wanted | files_of_package(tracked=False) <= sdist
    assert "tests/conftest.py" in sdist
    assert not [name for name in sdist if name.startswith(("benchmarks/results/", "docs/pictures/", "docs/results/"))]
    beside = {path.stem for path in (ROOT / "benchmarks").glob("*.py")}
    for name in [one for one in sdist if re.fullmatch(r"tests/\w+\.py", one)]:
        used = set(re.findall(r"^(?:from|import) (\w+)", (ROOT / name).read_text(), re.M)) & beside
        assert {f"benchmarks/{one}.py" for one in used} <= sdist, name


@pytest.mark.parametrize(
    "name",
    [
        "benchmarks/results/reading.json", "docs/pictures/view.png", "src/hilum/scan.nii.gz", "tests/data/1.dcm",
        "runs/x", "tests/browser/node_modules/a.js", "src/hilum/__pycache__/a.pyc", "deploy/secrets/hilum-token",
        "model.safetensors",
    ],
)  # fmt: skip
def test_what_belongs_into_no_package_is_named(name):
    assert forbidden({name: 10, "src/hilum/volume.py": 10}) == [f"{name} does not belong there"]
    assert forbidden({"src/hilum/large.json": 200_000}) == ["src/hilum/large.json is larger than 100 kB"]


def test_every_extra_is_in_all_or_for_developers():
    (everything,) = EXTRAS["all"]
    named = re.fullmatch(r"hilum\[([\w,]+)\]", everything)[1].split(",")
    assert named == sorted(named)
    assert set(named) == set(EXTRAS) - FOR_DEVELOPERS - {"all"}


def test_every_requirement_is_in_the_tested_set():
    """Without a pin, a release of another project can change what is tested."""
    name = re.compile(r"[\w.-]+")
    pinned = {re.sub(r"[-_.]+", "-", line.partition("==")[0]).lower() for line in _lines("constraints.txt")}
    asked = [*PROJECT["dependencies"], *(one for extra in EXTRAS.values() for one in extra)]
    names = {re.sub(r"[-_.]+", "-", name.match(one)[0]).lower() for one in asked} - {"hilum"}
    assert sorted(names - pinned) == []


def _lines(name: str) -> list[str]:
    return (ROOT / name).read_text().splitlines()


def test_the_list_of_names_is_that_of_the_stub():
    stub = [re.match(r"from (\S+) import (\w+)", line) for line in _lines("src/hilum/__init__.pyi")]
    assert {found[2]: found[1] for found in stub if found} == hilum._HOME
    assert set(hilum.__all__) == {*hilum._HOME, "__version__"}


def test_a_users_script_is_type_checked_against_the_package(tmp_path):
    """Under --strict, in a cache of its own; errors within Hilum are hidden, as in an installed package."""
    (tmp_path / "wrong.py").write_text("import hilum\n\nhilum.read(3)\nhilum.no_such_name\n")
    (tmp_path / "mypy.ini").write_text(
        f"[mypy]\nstrict = True\nfollow_imports = silent\nmypy_path = {ROOT / 'src'}\n"
        f"[mypy-{','.join(NOT_FOLLOWED.split())}]\nfollow_imports = skip\nfollow_imports_for_stubs = True\n"
    )
    shutil.copy(ROOT / "tests" / "user_script.py", tmp_path)
    command = [sys.executable, "-m", "mypy", "--cache-dir", "cache", "user_script.py", "wrong.py"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    errors = re.findall(r"^(\S+?):(\d+): error: .*\[(.+)\]$", done.stdout, re.M)
    assert errors == [("wrong.py", "3", "arg-type"), ("wrong.py", "4", "attr-defined")], done.stdout + done.stderr


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert version("hilum") == PROJECT["version"]
    assert not {"doi", "url", "repository-code"} & set(citation)  # none is invented


def test_the_templates_of_issues_warn_of_patient_data_and_ask_for_what_helps():
    templates = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    forms = [yaml.safe_load(path.read_text()) for path in templates if path.name != "config.yml"]
    assert len(forms) == 2
    for form in forms:
        assert {"name", "description", "body"} <= set(form)
        first = form["body"][0]
        assert first["type"] == "markdown"
        assert "No patient data here" in first["attributes"]["value"]
        asked = str(form["body"])
        assert "hilum env" in asked
        assert "codes" in asked.lower()
        ids = [one["id"] for one in form["body"] if one["type"] != "markdown"]
        assert len(ids) == len(set(ids))


def test_the_page_on_upgrades_has_the_formats_and_renamed_flags_of_the_code():
    page = (ROOT / "docs" / "how-to" / "upgrade.md").read_text()
    formats = dict(re.findall(r"^\| (\S.*?) \| (\d+) \|", page, re.M))
    assert {name: int(number) for name, number in formats.items()} == {
        "`model.json`, of a model": model_folder.MODEL_FORMAT,
        "`evaluation.json` and `cases.csv`, of an evaluation": EVALUATION_FORMAT,
        "`splits.csv`, of a run": split_file.SPLITS_FORMAT,
        "`run.json`, of a run": run_record.RUN_FORMAT,
        "`cases.csv`, of a run of folds": int(out_of_fold._FORMAT),
        "`folds.json`, of a run of folds": folds_plan.FoldsPlan.FORMAT,
        "`last/`, state of a run": state._FORMAT,
        "`audit.json`, of a run": audit.AUDIT_FORMAT,
        "`explanation.json`, of an explanation": explanation.EXPLANATION_FORMAT,
        "samples in `store/`": store._VERSION,
        "JSON beside a converted scan or a mask": record._FORMAT,
        "`result.json`, of the service": worker.RESULT_FORMAT,
        "`service.sqlite`, of the service": database._FORMAT,
    }
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| `(--[\w.-]+)` \| (`--.*) \|$", page, re.M)
    told = {(verb, old): new.replace("`", "") for verbs, old, new in rows for verb in re.findall(r"`(\w+)`", verbs)}
    assert told == {(verb, old): new for verb, flags in arguments._RENAMED.items() for old, new in flags.items()}
