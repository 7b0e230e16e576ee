"""Writes docs/results/*.md and the table of results in the README from benchmarks/results/*.json; types no figure.

    python benchmarks/results_pages.py [--check]

Run it after a benchmark's JSON was replaced. With --check nothing is written: it names the files that differ from what
it would write, and exits with 1 if there are any. Takes a second; needs no library but NumPy.
"""

import sys
from collections.abc import Callable
from pathlib import Path

from machine import ROOT
from results_format import between, digits, fixed, page, percent, percent_between, plain_table, result
from results_models import imbalance, nodules, training
from results_scans import augmentation, lungs, preparing, reading
from results_use import abstaining, explaining, intervals, prediction, robustness, service

DOCS = ROOT / "docs" / "results"
BEGIN, END = "<!-- results -->", "<!-- /results -->"

PAGES: dict[str, tuple[str, Callable[[], str]]] = {
    "reading": ("Reading and converting", reading),
    "lungs": ("The lungs", lungs),
    "preparing": ("Preparing and the store", preparing),
    "augmentation": ("Augmentation", augmentation),
    "training": ("Training: steps, epochs, settings, seeds", training),
    "nodules": ("Nodules of LIDC-IDRI, judged out of fold", nodules),
    "imbalance": ("Rare classes", imbalance),
    "explaining": ("Maps that explain", explaining),
    "abstaining": ("Abstaining and the gate", abstaining),
    "intervals": ("Intervals and calibration", intervals),
    "prediction": ("Prediction, ensembles and export", prediction),
    "service": ("The service and the PACS", service),
    "robustness": ("Robustness: damaged files, kills, copies, many cases", robustness),
}
"""Title in the index and text of each page, in the order of the data."""

CHINESE = {
    "measured": "测量内容",
    "Hilum": "Hilum",
    "beside it": "对照",
    "page": "页面",
    "LIDC-IDRI, suspicious nodules or not: AUC out of fold, {} nodules": "LIDC-IDRI，结节是否可疑：折外 AUC，{} 个结节",
    "the same on folds 3 and 4, which no choice ever saw, {} nodules": (
        "同上，仅第 3、4 折（从未用于任何选择），{} 个结节"
    ),
    "the readers' diameter {}; gain {}": "阅片医生测得的直径 {}；增益 {}",
    "the tutorial": "教程",
    "reading 275 slices of DICOM, with all checks": "读取 275 层 DICOM，含全部检查",
    "preparing them to 128 cubed, the lungs found; without lungs": "将其预处理为 128³：含双肺分割；不含双肺分割",
    "the first read of a prepared sample of 128 cubed, not in memory": "首次读取预处理好的 128³ 样本，未缓存",
    "augmenting a sample of 128 cubed: as often as the tutorial; all changes but elastic": (
        "增强一个 128³ 样本：变换频率与教程相同；除弹性形变外的全部变换"
    ),
    "lungs, Dice: median and worst of {} simulated scans; a real one": (
        "双肺分割的 Dice：{} 例模拟扫描的中位数和最低值；一例真实扫描"
    ),
    "the true or the reference mask": "真值或参考掩膜",
    "a training step of ResNet-18 in bf16, batches of 8 at 64 cubed": "ResNet-18 训练一步，bf16，每批 8 个 64³ 样本",
    "MONAI in bf16, its gradients wrong,": "MONAI bf16（梯度有误）",
    "MONAI in fp32": "MONAI fp32",
    "the tutorial in fp32": "教程 fp32",
    "prediction, ResNet-18, batches of 8 at 128 cubed, fp32": "预测，ResNet-18，每批 8 个 128³ 样本，fp32",
    "maps of simulated chests that peak at the mass": "热力图峰值落在肿块上的比例，模拟胸部 CT",
    "integrated gradients {}, lost weights {}, a random voxel {}": "积分梯度 {}，权重随机化 {}，随机体素 {}",
    "new simulated chests that the gate holds back": "新的模拟胸部 CT 被输入检验拦下的比例",
    "{} asked for": "设定值 {}",
    "scans per second of the service, {} clients": "服务每秒处理的扫描数，{} 个客户端",
    "damaged files, neither read nor refused in one line": "损坏的文件，既未读出、也未给出一行明确的拒绝信息",
    "{} of {}": "{} / {}",
    " to ": " 至 ",
}
LANGUAGES: dict[str, dict[str, str]] = {"README.md": {}, "README.zh.md": CHINESE}
"""The files that hold the table of results, and the translations of its texts."""

Say = Callable[[str], str]


def _taken(name: str, row: str, write: Callable[[dict[str, float]], str], **conditions: object) -> str:
    """Time of one row of a benchmark, with its smallest and largest."""
    conditions = {"row": row, **conditions}
    (found,) = (one for one in result(name)["rows"] if all(one[key] == value for key, value in conditions.items()))
    return write(found)


def _median(row: dict[str, float]) -> str:
    return f"{digits(row['median_s'])} s"


def _in_ms(row: dict[str, float]) -> str:
    return f"{1000 * row['median_s']:.0f} ms"


def _beside(name: str, rows: dict[str, str], write: Callable[[dict[str, float]], str], **conditions: object) -> str:
    """The medians of other rows."""
    return ", ".join(f"{text} {_taken(name, row, write, **conditions)}" for row, text in rows.items())


def headlines(folder: str, say: Say = str) -> str:
    """The one table of results: what was measured, Hilum, what stands beside it, the page."""
    rows = [*_of_nodules(say), *_of_scans(say), *_of_training(say), *_of_trust(say)]
    header = [say(text) for text in ("measured", "Hilum", "beside it", "page")]
    return plain_table(header, [[*cells, f"[{name}]({folder}{name}.md)"] for *cells, name in rows])


def _of_nodules(say: Say) -> list[list[str]]:
    found = result("nodules")
    rows = []
    for part, key, text in (
        ("", "auc_suspicious", say("LIDC-IDRI, suspicious nodules or not: AUC out of fold, {} nodules")),
        ("_folds_3_4", "auc_folds_3_4", say("the same on folds 3 and 4, which no choice ever saw, {} nodules")),
    ):
        rival, gain = (f"{name}_diameter{part}" for name in ("auc", "gain_over"))
        rows.append(
            [
                text.format(found[f"num{part}" if part else "num_nodules"]),
                between(found[key], found[f"{key}_ci"]),
                say("the readers' diameter {}; gain {}").format(
                    between(found[rival], found[f"{rival}_ci"]),
                    between(found[gain], found[f"{gain}_ci"], signed=True),
                ),
                "nodules",
            ]
        )
    return rows


def _of_scans(say: Say) -> list[list[str]]:
    scan, tutorial = {"scan": "lidc-0314"}, say("the tutorial")
    readers = {
        "simpleitk": "SimpleITK",
        "tutorial": tutorial,
        "pydicom": "pydicom",
        "torchio": "TorchIO",
        "monai": "MONAI",
    }
    rivals = {"torchio": "TorchIO", "monai": "MONAI", "tutorial": tutorial}
    cold, works = {"samples": "128x128x128"}, ("as the tutorial", "all on, no elastic")
    return [
        [
            say("reading 275 slices of DICOM, with all checks"),
            _taken("reading", "hilum", _median, **scan),
            _beside("reading", readers, _median, **scan),
            "reading",
        ],
        [
            say("preparing them to 128 cubed, the lungs found; without lungs"),
            f"{_taken('preparing', 'hilum', _median, **scan)}; {_taken('preparing', 'hilum, whole', _median, **scan)}",
            f"{_beside('preparing', {'tutorial': tutorial}, _median, **scan)}; "
            f"{_beside('preparing', {'torchio, one step': 'TorchIO', 'monai, one step': 'MONAI'}, _median, **scan)}",
            "preparing",
        ],
        [
            say("the first read of a prepared sample of 128 cubed, not in memory"),
            _taken("store", "hilum, first load", _cold, **cold),
            _beside(
                "store",
                {"blosc2 lz4 5 bitshuffle": "Blosc2 lz4", "npy": ".npy", "zarr v3, default": "Zarr"},
                _cold,
                **cold,
            ),
            "preparing",
        ],
        [
            say("augmenting a sample of 128 cubed: as often as the tutorial; all changes but elastic"),
            "; ".join(_taken("augment", "hilum", _in_ms, work=work) for work in works),
            "; ".join(_beside("augment", rivals, _in_ms, work=work) for work in works),
            "augmentation",
        ],
        _of_lungs(say),
    ]


def _cold(row: dict[str, float]) -> str:
    return f"{row['cold_ms']:.1f} ms"


def _of_lungs(say: Say) -> list[str]:
    found = result("lungs")
    summary = found["summary"]
    real = next(row for row in found["rows"] if row["scan"] == "ct-64")
    return [
        say("lungs, Dice: median and worst of {} simulated scans; a real one").format(summary["scans"]),
        f"{fixed(summary['median_dice'])}, {fixed(summary['worst_dice'])}; {fixed(real['dice'])}",
        say("the true or the reference mask"),
        "lungs",
    ]


def _of_training(say: Say) -> list[list[str]]:
    step, logits = {"depth": 18, "edge": 64}, {"depth": 18, "edge": 128}
    return [
        [
            say("a training step of ResNet-18 in bf16, batches of 8 at 64 cubed"),
            _taken("training_step", "hilum", _median, **step),
            _beside(
                "training_step",
                {
                    "monai, bf16, channels last": say("MONAI in bf16, its gradients wrong,"),
                    "monai, fp32, channels last": say("MONAI in fp32"),
                    "tutorial": say("the tutorial in fp32"),
                },
                _median,
                **step,
            ),
            "training",
        ],
        [
            say("prediction, ResNet-18, batches of 8 at 128 cubed, fp32"),
            _taken("prediction", "hilum, fp32", _median, **logits),
            _beside("prediction", {"onnx": "ONNX Runtime", "tutorial": say("the tutorial")}, _median, **logits),
            "prediction",
        ],
    ]


def _of_trust(say: Say) -> list[list[str]]:
    maps, gate, load, fuzz = (result(name) for name in ("explain", "gate", "serving", "fuzz"))
    rows, (share, *_) = maps["rows"], gate["shares"]
    return [
        [
            say("maps of simulated chests that peak at the mass"),
            percent_between(rows["occlusion: hit"]),
            say("integrated gradients {}, lost weights {}, a random voxel {}").format(
                *(
                    percent(rows[f"{name}: hit"]["share"], 1)
                    for name in ("integrated-gradients", "lost weights", "random voxel of the lungs")
                )
            ),
            "explaining",
        ],
        [
            say("new simulated chests that the gate holds back"),
            percent_between(share, share="held_back"),
            say("{} asked for").format(percent(share["asked"])),
            "abstaining",
        ],
        [
            say("scans per second of the service, {} clients").format(load["load"]["clients"]),
            digits(load["load"]["per_second"]),
            f"`hilum predict` {digits(load['predict']['per_second'])}",
            "service",
        ],
        [
            say("damaged files, neither read nor refused in one line"),
            say("{} of {}").format(fuzz["wrong"], f"{fuzz['cases']:,}"),
            "",
            "robustness",
        ],
    ]


def index() -> str:
    return page(
        "Results",
        "All figures were measured by scripts of this repository. These pages are written from "
        "their output in `benchmarks/results` by `python benchmarks/results_pages.py`; no figure is typed. Below "
        "each table stand the script, the machine, how often it was run, and its spread. "
        "Figures of different machines cannot be compared.",
        "What was not shown: on LIDC-IDRI no gain over a reader's diameter is beyond chance. All its figures are on "
        "crops that the readers marked, and say nothing about detecting nodules. Figures on simulated chests say that "
        "the pipeline works, and nothing about patients. No figure was measured on a GPU.",
        "## Overview",
        headlines(""),
        "Intervals in brackets are of 95 %; times are medians, whose spread is on the pages.",
        "## Pages",
        *(f"- [{title}]({name}.md)" for name, (title, _) in PAGES.items()),
    )


def written() -> dict[Path, str]:
    """Every file, and what it is to hold."""
    texts = {DOCS / "index.md": index()} | {DOCS / f"{name}.md": write() for name, (_, write) in PAGES.items()}
    for name, words in LANGUAGES.items():
        readme = ROOT / name
        if readme.is_file() and BEGIN in (text := readme.read_text()):
            before, _, rest = text.partition(BEGIN)
            own = headlines("docs/results/", lambda text, words=words: words[text] if words else text)  # type: ignore[misc]
            own = own.replace(" to ", words.get(" to ", " to "))  # of intervals
            texts[readme] = f"{before}{BEGIN}\n\n{own}\n\n{END}{rest.partition(END)[2]}"
    return texts


def main() -> None:
    differing = {path: text for path, text in written().items() if not path.is_file() or path.read_text() != text}
    stale = sorted(set(DOCS.glob("*.md")) - set(written()))
    if "--check" in sys.argv[1:]:
        for path in [*differing, *stale]:
            print(f"{path.relative_to(ROOT)} is not what benchmarks/results_pages.py writes")
        sys.exit(1 if differing or stale else 0)
    DOCS.mkdir(exist_ok=True)
    for path in stale:
        path.unlink()
    for path, text in differing.items():
        path.write_text(text)
        print(path.relative_to(ROOT))


if __name__ == "__main__":
    main()
