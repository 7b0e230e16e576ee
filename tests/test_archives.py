"""Archives, CDs and folders: what may hold scans is found, and nothing is written where it must not be."""

import bz2
import contextlib
import errno
import gzip
import io
import lzma
import os
import re
import shutil
import stat
import struct
import tarfile
import tempfile
import time
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import pydicom
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydicom.fileset import FileSet

from dicom_files import scan_hu, write_series
from hilum.cli import main
from hilum.errors import HilumError, ReadError
from hilum.preparing.sources import Sources
from hilum.reading.archives.unpack import is_archive, unpack
from hilum.reading.doctor import examine
from hilum.reading.paths import opened_tree, source_files
from hilum.settings.run import ReadingConfig

READING = ReadingConfig()
FORMATS = ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"]


@pytest.fixture(autouse=True)
def scratch(tmp_path_factory, monkeypatch) -> Path:
    """The place of temporary folders, which must be empty in the end."""
    folder = tmp_path_factory.mktemp("scratch")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def packed(path: Path, members: dict[str, bytes]) -> Path:
    """An archive, of the format that its name says, with files of any names."""
    if path.name.endswith(".zip"):
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in members.items():
                archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
        return path
    mode = path.name.partition(".tar")[2].removeprefix(".") if ".tar" in path.name else "gz"
    with tarfile.open(path, f"w:{mode}") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def tar_of(path: Path, name: str, kind: bytes, **fields) -> Path:
    """A tar with a file and one member of another kind."""
    with tarfile.open(path, "w") as archive:
        archive.addfile(tarfile.TarInfo("IM1"))
        info = tarfile.TarInfo(name)
        info.type = kind
        for field, value in fields.items():
            setattr(info, field, value)
        archive.addfile(info)
    return path


def zip_of_mode(path: Path, mode: int) -> Path:
    """A zip with a file and one whose Unix mode says that it is something else."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("IM1", b"scan")
        info = zipfile.ZipInfo("IM2")
        info.create_system, info.external_attr = 3, mode << 16
        archive.writestr(info, "/etc/passwd")
    return path


def listing(folder: Path) -> set[Path]:
    return set(folder.rglob("*"))


def contents(path: Path, reading: ReadingConfig = READING) -> dict[str, bytes]:
    with opened_tree(path, reading) as tree:
        return {tree.where(file): file.read_bytes() for file in tree.files}


def codes(path: Path, reading: ReadingConfig = READING) -> list[str]:
    with opened_tree(path, reading) as tree:
        return [finding.code for finding in tree.findings]


def assert_refused(path: Path, code: str = "unsafe-archive", reading: ReadingConfig = READING) -> str:
    """One finding, no file, nothing left and nothing beside; returns the finding as a line."""
    before = listing(path.parent)
    with opened_tree(path, reading) as tree:
        assert tree.files == ()
        (finding,) = tree.findings
        assert (finding.code, finding.severity) == (code, "refused")
        assert finding.where.startswith(path.name)
        assert tempfile.gettempdir() not in str(finding)
        assert not any(file.is_file() for file in Path(tempfile.gettempdir()).rglob("*"))
    assert listing(path.parent) == before
    assert not listing(Path(tempfile.gettempdir()))
    return str(finding)


# what is read


@pytest.mark.parametrize("name", [*(f"exam.{suffix}" for suffix in FORMATS), "EXAM.tgz"])
def test_an_archive_of_a_series_gives_the_bytes_of_its_files(tmp_path, name):
    files = {f"CT/{f.name}": f.read_bytes() for f in write_series(tmp_path / "series")}
    archive = packed(tmp_path / name, files)
    assert contents(archive) == {f"{name}/{member}": content for member, content in files.items()}
    assert codes(archive) == []


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_archive_without_a_suffix_is_known_by_its_bytes(tmp_path, suffix):
    archive = packed(tmp_path / f"exam.{suffix}", {"CT/IM1": b"one"}).rename(tmp_path / "export-2")
    assert contents(archive) == {"export-2/CT/IM1": b"one"}


def test_an_archive_with_the_suffix_of_another_format_is_read_as_what_it_is(tmp_path):
    archive = packed(tmp_path / "exam.tar", {"IM1": b"one"}).rename(tmp_path / "exam.tgz")
    assert contents(archive) == {"exam.tgz/IM1": b"one"}


def test_images_and_documents_are_no_archives(tmp_path):
    gz, dicom = tmp_path / "scan.nii.gz", tmp_path / "IM1"
    gz.write_bytes(gzip.compress(bytes(1000)))
    dicom.write_bytes(b"PK\3\4" + bytes(124) + b"DICM")
    text = tmp_path / "text.gz"
    text.write_bytes(gzip.compress(b"no tar"))
    table = packed(tmp_path / "table.zip", {"xl/workbook.xml": b""}).rename(tmp_path / "table.xlsx")
    assert not any(is_archive(path) for path in (gz, dicom, text, table, tmp_path / "none"))
    assert contents(table).keys() == {"table.xlsx"}


def test_folders_and_their_archives_are_one_tree_in_a_fixed_order(tmp_path):
    for name in ("b/IM2", "b/IM1", "a/deep/er/IM3", "z", ".hidden/IM4", "b/.DS_Store", "table.xlsx"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(name.encode())
    packed(tmp_path / "b" / "more.zip", {"y/IM9": b"", "x/IM8": b"", "IM7": b""})
    packed(tmp_path / "b" / "rest.tar", {"IM7": b"other"})
    assert list(contents(tmp_path)) == [
        "table.xlsx", "z", "a/deep/er/IM3", "b/IM1", "b/IM2", "b/more.zip/IM7", "b/more.zip/x/IM8", "b/more.zip/y/IM9",
        "b/rest.tar/IM7",
    ]  # fmt: skip
    assert [file.name for file in source_files(tmp_path / "b")] == ["IM1", "IM2", "more.zip", "rest.tar"]


def test_a_name_is_relative_to_what_was_opened(tmp_path, monkeypatch):
    archive = packed(tmp_path / "exam.zip", {"IM/1": b""})
    with opened_tree(archive, READING) as tree:
        assert tree.where(tree.files[0].parent) == "exam.zip/IM"
    with opened_tree(tmp_path, READING) as tree:
        assert tree.where(tmp_path) == "."
        assert tree.where(Path("/etc/passwd")) == "passwd"
    monkeypatch.chdir(tmp_path)
    assert list(contents(Path("exam.zip"))) == ["exam.zip/IM/1"]
    assert list(contents(Path())) == ["exam.zip/IM/1"]


def test_unpacked_files_are_for_their_owner_only(tmp_path):
    with opened_tree(packed(tmp_path / "exam.zip", {"IM/1": b"scan"}), READING) as tree:
        modes = {stat.S_IMODE(p.stat().st_mode) for p in (*tree.files, tree.unpacked)}
    assert modes == {0o600, 0o700}


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_the_temporary_folder_goes_whatever_happens(tmp_path, scratch, error):
    archive = packed(tmp_path / "exam.zip", {"IM1": b"scan"})
    with pytest.raises(error, match="stop"), opened_tree(archive, READING) as tree:  # noqa: PT012
        assert listing(scratch)
        assert tree.files[0].read_bytes() == b"scan"
        raise error("stop")
    assert not listing(scratch)


def test_hidden_members_are_passed_over(tmp_path):
    members = {"__MACOSX/._IM1": b"", ".DS_Store": b"", "a/.git/IM2": b"", "./IM3": b"", "a//IM4": b""}
    assert contents(packed(tmp_path / "exam.tgz", members)).keys() == {"exam.tgz/IM3", "exam.tgz/a/IM4"}


def test_a_path_that_leads_to_nothing_is_named(tmp_path):
    for path in (tmp_path / "none", tmp_path / "a\0b"):
        with pytest.raises(ReadError, match="no file or folder"), opened_tree(path, READING):
            pass
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ReadError, match="a pipe or a device"), opened_tree(tmp_path / "pipe", READING):
        pass
    assert contents(tmp_path) == {}


def test_links_to_files_are_followed_and_others_are_told(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "IM1").write_bytes(b"one")
    (tmp_path / "link").symlink_to(tmp_path / "real" / "IM1")
    (tmp_path / "gone").symlink_to("nowhere")
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "itself").symlink_to("itself")
    assert contents(tmp_path) == {"link": b"one", "real/IM1": b"one"}
    with opened_tree(tmp_path, READING) as tree:
        assert [(f.code, f.severity, f.where) for f in tree.findings] == [
            ("missing-file", "note", "gone"),
            ("missing-file", "note", "itself"),
        ]


def test_links_to_folders_are_followed_once_and_without_loops(tmp_path):
    """Each folder is walked once, by its real path where it has one below the root, else by the first link."""
    outside = tmp_path / "outside"
    (outside / "deep").mkdir(parents=True)
    (outside / "IM1").write_bytes(b"one")
    (outside / "deep" / "IM2").write_bytes(b"two")
    (outside / "back").symlink_to(tmp_path / "root")
    (outside / "here").symlink_to(".")
    root = tmp_path / "root"
    (root / "z").mkdir(parents=True)
    (root / "z" / "IM3").write_bytes(b"three")
    (root / "a").symlink_to("z")
    (root / "b").symlink_to(outside)
    (root / "c").symlink_to(outside / "deep")
    (root / "z" / "top").symlink_to(tmp_path)  # it holds the root, and what else lies beside it
    (tmp_path / "IM9").write_bytes(b"nine")
    expected = {"z/IM3": b"three", "b/IM1": b"one", "b/deep/IM2": b"two"}
    assert contents(root) == expected
    assert codes(root) == []
    assert {file.relative_to(root).as_posix() for file in source_files(root)} == set(expected)
    (tmp_path / "link").symlink_to(root)
    assert contents(tmp_path / "link") == expected


def test_a_digest_of_a_scan_goes_by_what_links_lead_to(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "IM1").write_bytes(b"one")
    (tmp_path / "scan").mkdir()
    (tmp_path / "scan" / "link").symlink_to(tmp_path / "real")
    sources = Sources(tmp_path / "index")
    assert sources.digest(tmp_path / "scan") == sources.digest(tmp_path / "real")
    (tmp_path / "real" / "IM1").write_bytes(b"two")
    assert sources.digest(tmp_path / "scan") == sources.digest(tmp_path / "real")


def test_no_caller_can_drop_what_is_left_out_without_asking_for_it(tmp_path):
    (tmp_path / "IM1").write_bytes(b"one")
    (tmp_path / "gone").symlink_to("nowhere")
    with pytest.raises(ReadError, match=r"missing-file \(note\): a link that leads to nothing \[gone\]"):
        source_files(tmp_path)
    left_out = []
    assert [file.name for file in source_files(tmp_path, left_out)] == ["IM1"]
    assert [finding.where for finding in left_out] == ["gone"]


def test_no_link_leads_out_of_an_unpacked_archive(tmp_path, monkeypatch):
    """None is ever unpacked; if one were there, it would not be followed."""
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret" / "IM1").write_bytes(b"secret")
    original = unpack

    def with_links(archive, folder, **settings):
        troubles = original(archive, folder, **settings)
        (folder / "out").symlink_to(tmp_path / "secret")
        (folder / "file").symlink_to(tmp_path / "secret" / "IM1")
        return troubles

    monkeypatch.setattr("hilum.reading.paths.unpack", with_links)
    archive = packed(tmp_path / "exam.zip", {"IM/1": b"scan"})
    assert contents(archive) == {"exam.zip/IM/1": b"scan"}
    with opened_tree(archive, READING) as tree:
        assert [(f.code, f.where) for f in tree.findings] == [
            ("unsafe-archive", "exam.zip/file"),
            ("unsafe-archive", "exam.zip/out"),
        ]


@pytest.fixture
def shut(monkeypatch):
    """Folders called shut cannot be listed, whoever asks: root may list every one."""
    scandir = os.scandir

    def refusing(path="."):
        if Path(os.fspath(path)).name == "shut":
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), os.fspath(path))
        return scandir(path)

    monkeypatch.setattr("hilum.reading.paths.os.scandir", refusing)


def test_what_is_left_out_is_listed_and_counted_in_the_last_line(tmp_path, shut, capsys):
    (tmp_path / "a" / "shut").mkdir(parents=True)
    (tmp_path / "a" / "gone").symlink_to("nowhere")
    (tmp_path / "a" / "bad.dcm").write_bytes(b"no scan")
    assert codes(tmp_path) == ["missing-file", "unreadable-file"]
    assert main(["inspect", str(tmp_path)]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "left out: 3 files, folders and links that cannot be read, named above"
    for where in ("a/shut", "a/gone", "a/bad.dcm"):
        assert sum(line.endswith(f"[{where}]") for line in lines) == 1, where


@pytest.mark.skipif(os.geteuid() == 0, reason="root may list every folder")
def test_a_folder_that_cannot_be_listed_is_a_finding(tmp_path):
    (tmp_path / "shut").mkdir(mode=0)
    with opened_tree(tmp_path, READING) as tree:
        assert [(f.code, f.where) for f in tree.findings] == [("unreadable-file", "shut")]


def test_a_folder_too_deep_to_be_listed_is_a_finding(tmp_path):
    here = os.open(tmp_path, os.O_RDONLY)
    for _ in range(20):  # longer in all than a path may be
        os.mkdir("d" * 250, dir_fd=here)
        here, parent = os.open("d" * 250, os.O_RDONLY, dir_fd=here), here
        os.close(parent)
    os.close(here)
    assert codes(tmp_path) == ["unreadable-file"]


# what is refused

HOSTILE = {
    "absolute": ["/etc/hilum"],
    "Windows drive": ["C:/hilum"],
    "backslash": ["..\\..\\hilum"],
    "upwards": ["a/../../hilum"],
    "only upwards": [".."],
    "too long": ["n" * 300],
    "too deep": ["d/" * 100 + "IM1"],
    "control characters on the way out": ["../\x1b[31m\nIM1"],
    "twice": ["IM1", "IM1x"],
    "twice but for the case": ["a/IM1", "A/im1"],
    "file and folder": ["IM1", "IM1/IM2"],
    "folder and file": ["im1/IM2", "IM1"],
    "no name": ["."],
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz"])
@pytest.mark.parametrize("kind", HOSTILE)
def test_one_hostile_name_refuses_the_archive(tmp_path, kind, suffix):
    members = {"IM0": b"good", **dict.fromkeys(HOSTILE[kind], b"evil"), "IM9": b"good"}
    archive = packed(tmp_path / f"exam.{suffix}", members)
    if kind == "twice":
        archive.write_bytes(b"")
        packed(archive, {"IM1": b"one", "./IM1": b"other"})
    line = assert_refused(archive)
    assert line.isprintable()
    assert len(line) < 250


def test_a_name_with_a_null_byte_refuses_a_zip(tmp_path):
    archive = packed(tmp_path / "exam.zip", {"IM1_hidden": b"scan"})
    archive.write_bytes(archive.read_bytes().replace(b"IM1_hidden", b"IM1\0hidden"))
    assert_refused(archive)


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        (tarfile.SYMTYPE, {"linkname": "/etc"}),
        (tarfile.LNKTYPE, {"linkname": "IM1"}),
        (tarfile.CHRTYPE, {}),
        (tarfile.BLKTYPE, {}),
        (tarfile.FIFOTYPE, {}),
        (tarfile.GNUTYPE_SPARSE, {}),
        (b"M", {}),
        (tarfile.REGTYPE, {"pax_headers": {"path": "../IM2"}}),
        (tarfile.REGTYPE, {"pax_headers": {"comment": "x" * 2_000_000}}),
    ],
)
def test_what_is_no_plain_file_refuses_a_tar(tmp_path, kind, fields):
    assert_refused(tar_of(tmp_path / "exam.tar", "IM2", kind, **fields))


@pytest.mark.parametrize("version", ["0", "1"])
def test_a_sparse_file_of_a_newer_kind_refuses_a_tar(tmp_path, version):
    headers = {"GNU.sparse.major": version, "GNU.sparse.minor": "1", "GNU.sparse.map": "0,1", "GNU.sparse.size": "9"}
    path = tar_of(tmp_path / "exam.tar", "IM2", tarfile.REGTYPE, pax_headers=headers)
    with opened_tree(path, READING) as tree:
        assert tree.files == ()
        assert [f.severity for f in tree.findings] == ["refused"]


def test_a_header_on_which_the_standard_library_would_spend_hours_is_refused_at_once(tmp_path):
    content = b"1" * 1_000_000
    header = tarfile.TarInfo("x")
    header.type, header.size = tarfile.XHDTYPE, len(content)
    padding = bytes(-len(content) % 512)
    path = tmp_path / "exam.tar"
    path.write_bytes(header.tobuf() + content + padding + tarfile.TarInfo("IM1").tobuf() + bytes(1024))
    start = time.monotonic()
    assert "an extended header is damaged" in assert_refused(path, "unreadable-file")
    assert time.monotonic() - start < 5


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFSOCK])
def test_what_is_no_plain_file_refuses_a_zip(tmp_path, kind):
    assert_refused(zip_of_mode(tmp_path / "exam.zip", kind | 0o777))


def test_an_encrypted_zip_is_refused(tmp_path):
    archive = packed(tmp_path / "exam.zip", {"IM1": b"scan"})
    content = bytearray(archive.read_bytes())
    content[content.rindex(b"PK\1\2") + 8] |= 1
    archive.write_bytes(content)
    assert "encrypted" in assert_refused(archive)


@pytest.mark.parametrize("suffix", FORMATS)
def test_more_than_the_limit_is_refused(tmp_path, suffix):
    noise = os.urandom(300_000)
    archive = packed(tmp_path / f"exam.{suffix}", {"IM1": noise, "IM2": noise})
    assert "reading.max_gb" in assert_refused(archive, reading=ReadingConfig(max_gb=0.0005))
    assert codes(archive) == []


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz"])
def test_too_many_members_are_refused(tmp_path, suffix, monkeypatch):
    monkeypatch.setattr("hilum.reading.archives.limits.MAX_MEMBERS", 100)
    assert codes(packed(tmp_path / f"good.{suffix}", {f"IM{i}": b"" for i in range(100)})) == []
    assert_refused(packed(tmp_path / f"exam.{suffix}", {f"IM{i}": b"" for i in range(101)}))


@pytest.mark.parametrize("suffix", ["zip", "tar.gz", "tar.bz2", "tar.xz"])
@pytest.mark.parametrize("num_noise", [0, 200_000])
def test_a_bomb_is_stopped_before_it_fills_disk_or_memory(tmp_path, monkeypatch, suffix, num_noise):
    size = 100_000_000 if suffix == "tar.gz" else 20_000_000
    bomb = tmp_path / f"bomb.{suffix}"
    if suffix == "zip":
        with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("noise", os.urandom(num_noise))
            archive.writestr("IM1", bytes(size))
    else:
        header = tarfile.TarInfo("noise")
        header.size = num_noise
        start = header.tobuf() + os.urandom(num_noise) + bytes(-num_noise % 512)
        header = tarfile.TarInfo("IM1")
        header.size = size
        pack = {"tar.gz": gzip.compress, "tar.bz2": bz2.compress, "tar.xz": lzma.compress}[suffix]
        bomb.write_bytes(pack(start) + pack(header.tobuf()) + pack(bytes(size)))
    num_written = []

    remove = shutil.rmtree

    def noted(folder, **options):
        num_written.append(sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file()))
        remove(folder, **options)

    monkeypatch.setattr(shutil, "rmtree", noted)
    tracemalloc.start()
    try:
        line = assert_refused(bomb)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert "1000-fold" in line
    assert num_written[0] <= num_noise + 1_000_000 + 1000 * bomb.stat().st_size
    assert num_written[0] < size
    assert peak < 12_000_000  # 8 MB are the dictionary that xz asks for


def test_a_zip_whose_members_share_their_bytes_is_refused(tmp_path):
    archive = packed(tmp_path / "exam.zip", {"IM0": os.urandom(1000) + bytes(900_000)})
    content = archive.read_bytes()
    start = content.index(b"PK\1\2")
    entry = content[start : content.index(b"PK\5\6")]
    entries = b"".join(entry.replace(b"IM0", b"%03d" % i) for i in range(500))
    end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 500, 500, len(entries), start, 0)
    archive.write_bytes(content[:start] + entries + end)
    assert_refused(archive, "unreadable-file")  # the names differ from those beside the bytes


@pytest.mark.parametrize("suffix", ["zip", "tgz"])
@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("viewer/setup.zip", b"any"),
        ("viewer/setup", b"PK\3\4 and so on"),
        ("more.tar", b""),
        ("more", bytes(257) + b"ustar\x0000"),
        ("IM2.dcm.gz", gzip.compress(b"scan", mtime=0)),
        ("IM3", bz2.compress(b"scan")),
        ("IM4", lzma.compress(b"scan")),
    ],
)
def test_an_archive_in_an_archive_is_not_opened_but_the_rest_is(tmp_path, suffix, name, content):
    archive = packed(tmp_path / f"exam.{suffix}", {"IM0": b"scan", name: content, "IM9": b"scan"})
    with opened_tree(archive, READING) as tree:
        assert [file.name for file in tree.files] == ["IM0", "IM9"]
        (finding,) = tree.findings
    assert (finding.code, finding.where) == ("unsafe-archive", f"exam.{suffix}/{name}")


def test_images_and_programs_in_an_archive_are_files(tmp_path):
    members = {
        "scan.nii.gz": gzip.compress(b"scan"),
        "viewer.jar": b"PK\3\4",
        "report.docx": b"PK\3\4",
        "IM1": b"PK\3\4" + bytes(124) + b"DICM",
    }
    assert codes(packed(tmp_path / "exam.zip", members)) == []
    assert len(contents(tmp_path / "exam.zip")) == 4


# what is damaged


@pytest.mark.parametrize("suffix", FORMATS)
def test_an_archive_that_is_cut_anywhere_is_not_read(tmp_path, suffix):
    whole = packed(tmp_path / f"whole.{suffix}", {f"IM{i}": os.urandom(1500) for i in range(4)}).read_bytes()
    if suffix == "tar":
        whole = whole[: 4 * 2048]  # the rest is zeros
    cut = tmp_path / f"cut.{suffix}"
    for size in range(0, len(whole), 211):
        cut.write_bytes(whole[:size])
        assert_refused(cut, "unreadable-file")


@pytest.mark.parametrize("suffix", ["tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_a_tar_that_is_cut_is_said_to_end_too_early(tmp_path, suffix):
    archive = packed(tmp_path / f"exam.{suffix}", {f"IM{i}": os.urandom(5000) for i in range(4)})
    archive.write_bytes(archive.read_bytes()[:9001])
    (trouble,) = unpack(archive, tmp_path / "out", max_bytes=1 << 30)
    assert re.search("ends? too early", str(trouble))


@pytest.mark.parametrize("suffix", ["zip", "tar.gz", "tar.xz"])
def test_a_wrong_checksum_refuses_the_archive(tmp_path, suffix):
    archive = packed(tmp_path / f"exam.{suffix}", {"IM1": b"scan", "IM2": os.urandom(5000)})
    content = bytearray(archive.read_bytes())
    content[len(content) // 2] ^= 1
    archive.write_bytes(content)
    assert_refused(archive, "unreadable-file")


def test_a_damaged_header_does_not_end_a_tar_in_silence(tmp_path):
    archive = packed(tmp_path / "exam.tar", {"IM1": b"one", "IM2": b"two", "IM3": b"three"})
    content = bytearray(archive.read_bytes())
    content[1024] ^= 1
    archive.write_bytes(content)
    assert "damaged" in assert_refused(archive, "unreadable-file")


def test_two_tars_in_one_file_are_refused(tmp_path):
    archive = packed(tmp_path / "exam.tar", {"IM1": b"one"})
    archive.write_bytes(2 * archive.read_bytes())
    assert "more follows" in assert_refused(archive, "unreadable-file")


def test_a_compressed_tar_of_several_streams_is_read_as_one_archive(tmp_path):
    tar = packed(tmp_path / "exam.tar", {"IM1": b"one" * 9000}).read_bytes()
    for suffix, pack in {"tgz": gzip.compress, "tbz2": bz2.compress, "txz": lzma.compress}.items():
        archive = tmp_path / f"exam.{suffix}"
        archive.write_bytes(pack(tar[:700]) + pack(tar[700:5000]) + pack(tar[5000:]) + bytes(512))
        assert contents(archive) == {f"exam.{suffix}/IM1": b"one" * 9000}


@pytest.mark.parametrize("long", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT, tarfile.USTAR_FORMAT])
def test_long_names_of_every_kind_of_tar_are_read(tmp_path, long):
    name = "/".join(["a-long-folder-name"] * 6 + ["IM1"])
    with tarfile.open(tmp_path / "exam.tar", "w", format=long) as archive:
        archive.addfile(tarfile.TarInfo(name))
    assert list(contents(tmp_path / "exam.tar")) == [f"exam.tar/{name}"]


def test_a_compression_that_unpacks_in_one_go_is_not_read(tmp_path):
    with zipfile.ZipFile(tmp_path / "exam.zip", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("IM1", b"scan")
    assert "stored or deflated" in assert_refused(tmp_path / "exam.zip", "unreadable-file")


def test_an_xz_that_asks_for_a_large_dictionary_is_not_read(tmp_path):
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 30, "mode": lzma.MODE_FAST, "mf": lzma.MF_HC3, "depth": 1}]
    filters[0]["nice_len"] = 3
    small = lzma.compress(bytes(10_240), lzma.FORMAT_XZ, lzma.CHECK_NONE, filters=[filters[0] | {"dict_size": 1 << 16}])
    archive = tmp_path / "exam.txz"
    archive.write_bytes(small)
    assert codes(archive) == []
    head = bytearray(small[12:24])
    head[4] = 40  # 4 GB - 1, PS: .xz file format 5.3.1
    head[8:12] = struct.pack("<L", zlib.crc32(bytes(head[:8])))
    archive.write_bytes(small[:12] + bytes(head) + small[24:])
    assert_refused(archive, "unreadable-file")


def test_a_temporary_folder_that_is_not_there_is_an_error_that_says_so(tmp_path, scratch):
    archive = packed(tmp_path / "exam.zip", {"IM1": b"scan"})
    scratch.rmdir()
    with pytest.raises(ReadError, match="TMPDIR"), opened_tree(archive, READING):
        pass


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_a_full_disk_is_an_error_that_says_so(tmp_path, scratch, monkeypatch):
    archive = packed(tmp_path / "exam.zip", {"IM1": b"scan"})
    real = os.open

    def full(path, flags, *args, **kwargs):
        """Files that are made are on a device that is always full."""
        return real("/dev/full", os.O_WRONLY) if flags & os.O_CREAT else real(path, flags, *args, **kwargs)

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(ReadError, match="room for the unpacked archive: No space left"), opened_tree(archive, READING):
        pass
    assert not listing(scratch)


SEGMENTS = ["..", ".", "", "a", "A", "IM1", "C:", "~", "\\", "a\\..\\b", "\0", "é", "x" * 256, "\n", "..."]
PATHS = st.lists(st.sampled_from(SEGMENTS), min_size=1, max_size=4).map("/".join)
NAMES = st.lists(PATHS | st.text(max_size=12), max_size=4, unique=True)


@pytest.mark.filterwarnings("ignore:Duplicate name")
@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=NAMES, is_zip=st.booleans())
def test_whatever_the_names_all_that_is_written_lies_in_the_temporary_folder(tmp_path, scratch, names, is_zip):
    try:
        archive = packed(tmp_path / ("exam.zip" if is_zip else "exam.tar"), dict.fromkeys(names, b"scan"))
    except (UnicodeEncodeError, ValueError):
        return
    before = listing(tmp_path)
    with opened_tree(archive, READING) as tree:
        for file in tree.files:
            assert file.is_file()
            assert file.resolve().is_relative_to(tree.unpacked.resolve())
            assert tree.where(file).startswith(archive.name)
        assert tree.unpacked.parent == scratch
        assert list(scratch.iterdir()) == [tree.unpacked]
        assert all(f.where.isprintable() and len(f.where) < 100 for f in tree.findings)
        assert not (tree.files and any(f.where == archive.name for f in tree.findings))
    assert listing(tmp_path) == before
    assert not listing(scratch)


# CDs


@pytest.fixture(scope="module")
def written_disc(tmp_path_factory) -> Path:
    """A CD with three slices, and the slices outside of it."""
    folder = tmp_path_factory.mktemp("disc")
    files = FileSet()
    for path in write_series(folder / "series")[:3]:
        slice_ = pydicom.dcmread(path)
        slice_.PatientName, slice_.StudyDate, slice_.StudyTime, slice_.StudyID = "A", "20200101", "1200", "1"
        slice_.SeriesNumber, slice_.InstanceNumber, slice_.AccessionNumber = 1, 1, "1"
        files.add(slice_)
    files.write(folder / "cd")
    files._stage["t"].cleanup()  # pydicom leaves its temporary folder to the garbage collector
    return folder


@pytest.fixture
def disc(tmp_path, written_disc) -> Path:
    """The DICOMDIR of a CD."""
    shutil.copytree(written_disc, tmp_path, dirs_exist_ok=True)
    return tmp_path / "cd" / "DICOMDIR"


def references(disc: Path) -> list[Path]:
    return sorted(path for path in disc.parent.rglob("*") if path.is_file() and path != disc)


def test_a_dicomdir_stands_for_its_folder(disc):
    (disc.parent / "README").write_text("no scan")
    files = sorted([disc, *references(disc)])
    for path in (disc.parent, disc):
        with opened_tree(path, READING) as tree:
            assert sorted(tree.files) == files
            assert tree.findings == ()
            assert tree.where(files[-1]) == files[-1].relative_to(disc.parent).as_posix()
        assert sorted(source_files(path)) == files
    renamed = disc.rename(disc.with_name("INDEX"))
    with opened_tree(renamed, READING) as tree:
        assert sorted(tree.files) == sorted([renamed, *files[1:]])


def test_a_dicomdir_in_a_folder_is_a_file_among_others(disc):
    assert len(contents(disc.parent)) == 4
    assert len(contents(disc.parent.parent)) == 4 + len(list((disc.parent.parent / "series").iterdir()))


def test_names_of_a_cd_are_found_whatever_their_case_and_version(disc):
    for path in references(disc):
        path.rename(path.with_name(path.name.lower() + ".;1"))
    top = next(path for path in disc.parent.iterdir() if path.is_dir())
    top.rename(top.with_name(top.name.lower()))
    with opened_tree(disc, READING) as tree:
        assert len(tree.files) == 4
        assert tree.findings == ()


def test_files_that_a_cd_lacks_are_one_finding(disc):
    first, second, _ = references(disc)
    first.unlink()
    second.unlink()
    second.mkdir()
    with opened_tree(disc, READING) as tree:
        assert len(tree.files) == 2
        (finding,) = tree.findings
    assert (finding.code, finding.severity, finding.where) == (
        "missing-file",
        "note",
        str(first.relative_to(disc.parent)),
    )
    assert finding.message == "files that the DICOMDIR names are not there: 2"
    assert codes(disc, ReadingConfig(policy="strict")) == ["missing-file"]


@pytest.mark.parametrize("name", ["..\\..\\PASSWD", "\\ETC\\PASSWD", "/ETC/PASSWD", "C:\\PASSWD", "A\\\\B"])
def test_an_entry_that_leads_out_of_a_cd_is_not_followed(disc, name):
    first = references(disc)[0].relative_to(disc.parent)
    stored = "\\".join(first.parts).encode()
    content = disc.read_bytes()
    assert stored in content
    disc.write_bytes(content.replace(stored, name.encode().ljust(len(stored))))
    (disc.parent.parent / "PASSWD").write_text("secret")
    with opened_tree(disc, READING) as tree:
        assert sorted(tree.files) == sorted([disc, *references(disc)])
        (finding,) = tree.findings
    assert (finding.code, finding.severity) == ("missing-file", "note")


def test_a_damaged_dicomdir_still_stands_for_its_folder(disc):
    whole, files = disc.read_bytes(), sorted([disc, *references(disc)])
    for size in (0, 100, 200, len(whole) // 2, len(whole) - 50):
        disc.write_bytes(whole[:size])
        with opened_tree(disc, READING) as tree:
            assert sorted(tree.files) == files
            assert tree.findings == ()
        assert sorted(source_files(disc)) == files


# what is mutated

NAMED = ["exam.zip", "exam.tar", "exam.tgz"]


@settings(deadline=None, max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.binary(min_size=3, max_size=60), name=st.sampled_from([*NAMED, "DICOMDIR"]))
def test_damage_anywhere_is_a_finding_or_a_hilum_error(tmp_path, scratch, written_disc, seed, name):
    path = tmp_path / name
    if name == "DICOMDIR":
        content = bytearray((written_disc / "cd" / "DICOMDIR").read_bytes())
    else:
        content = bytearray(packed(path, {"CT/IM1": b"scan" * 99, "CT/IM2": bytes(600)}).read_bytes())
    for at, value in zip(seed[::3], seed[2::3], strict=False):
        content[(at * 257 + value * 31) % len(content)] ^= value or 1
    path.write_bytes(content)
    with contextlib.suppress(HilumError):
        codes(path)
    assert not listing(scratch)


def test_a_file_that_a_cd_has_lost_is_no_missing_slice(tmp_path):
    """Its DICOMDIR knows: a damaged transfer, whether the folder is opened, the DICOMDIR or an archive of both."""
    paths = write_series(tmp_path / "src", scan_hu(24), SeriesNumber=1, StudyID="1", PatientName="A", InstanceNumber=1,
                         StudyDate="20200101", StudyTime="101010", AccessionNumber="")  # fmt: skip
    for number, path in enumerate(paths):
        dataset = pydicom.dcmread(path)
        dataset.InstanceNumber = number + 1
        dataset.SOPInstanceUID = dataset.file_meta.MediaStorageSOPInstanceUID = f"1.2.3.{number + 1}"
        dataset.save_as(path)
    files = FileSet()
    for path in paths:
        files.add(path)
    files.write(tmp_path / "cd")
    files._stage["t"].cleanup()
    middle = sorted(p for p in (tmp_path / "cd").rglob("*") if p.is_file() and p.name != "DICOMDIR")
    position = {p: pydicom.dcmread(p).ImagePositionPatient[2] for p in middle}
    sorted(middle, key=position.__getitem__)[11].unlink()
    shutil.make_archive(str(tmp_path / "cd"), "gztar", tmp_path / "cd")
    for opened_as in (tmp_path / "cd", tmp_path / "cd" / "DICOMDIR", tmp_path / "cd.tar.gz"):
        (examined,), loose = examine(opened_as)
        assert "missing-file" in {f.code for f in loose}
        assert {f.code: f.severity for f in examined.findings}["missing-slices"] == "refused"
