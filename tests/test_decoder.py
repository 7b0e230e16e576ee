"""Native decoders run in processes of their own: whatever becomes of them, the caller gets voxels or a ReadError."""

import os
import signal
import struct
import subprocess
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from pydicom.uid import DeflatedExplicitVRLittleEndian, RLELossless

from dicom_files import scan_hu, slice_dataset
from hilum.errors import ReadError
from hilum.reading import decoder_pool
from hilum.reading.decoder_pool import decode, decoding

LIMIT = 10**9


@pytest.fixture
def image(tmp_path):
    """A file whose voxels do not fit into the pipe: its decoder waits for them to be read."""
    path = tmp_path / "scan.nii"
    sitk.WriteImage(sitk.GetImageFromArray(_voxels()), str(path))
    return path


def _voxels() -> np.ndarray:
    return np.random.default_rng(0).integers(-900, 900, (40, 256, 256), np.int16)


def _rle(path: Path) -> np.ndarray:
    stored = (scan_hu(1)[0] + 1024).astype(np.uint16)
    one = slice_dataset(stored, (0, 0, 0))
    one.compress(RLELossless)
    one.save_as(path, enforce_file_format=True)
    return scan_hu(1)


def _read_while(path: Path, happens) -> None:
    """Read an image to whose decoder something happens in the middle."""
    with decoding(path, "image", max_bytes=LIMIT) as answer:
        happens(answer._child.process.pid)
        list(answer.planes())


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _gone(pid: int) -> bool:
    end = time.monotonic() + 10
    while _is_running(pid) and time.monotonic() < end:
        time.sleep(0.02)
    return not _is_running(pid)


def _run(code: str, *arguments: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False
    )


def test_one_process_serves_one_request_after_the_other(image, tmp_path):
    hu = _rle(tmp_path / "one")
    decode(image, "image", max_bytes=LIMIT)
    pids = {child.process.pid for child in decoder_pool._pool.children}
    for _ in range(3):
        assert np.array_equal(decode(image, "image", max_bytes=LIMIT), _voxels())
        assert np.array_equal(decode(tmp_path / "one", "dicom", max_bytes=LIMIT), hu)
    assert {child.process.pid for child in decoder_pool._pool.children} == pids


def test_a_decoder_that_is_killed_is_an_error_and_the_next_one_works(image):
    with pytest.raises(ReadError, match=r"scan\.nii: cannot be read: the decoder crashed on it$"):
        _read_while(image, lambda pid: os.kill(pid, signal.SIGKILL))
    assert np.array_equal(decode(image, "image", max_bytes=LIMIT), _voxels())


def test_a_decoder_that_died_while_it_waited_is_replaced(image):
    decode(image, "image", max_bytes=LIMIT)
    for child in [*decoder_pool._pool.children]:
        os.kill(child.process.pid, signal.SIGKILL)
        child.process.wait()
    assert np.array_equal(decode(image, "image", max_bytes=LIMIT), _voxels())


def test_a_decoder_that_stands_still_is_ended(image, monkeypatch):
    monkeypatch.setattr(decoder_pool, "allowed_wall_s", lambda *_: 0.5)
    stopped = []

    def stop(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        stopped.append(pid)

    with pytest.raises(ReadError, match=r"scan\.nii: cannot be read: decoding it takes too long$"):
        _read_while(image, stop)
    assert _gone(stopped[0])


def test_a_small_file_may_take_less_than_five_seconds_and_a_large_one_minutes():
    from hilum.reading.decoder_child import allowed_wall_s

    assert allowed_wall_s("dicom", 300_000, 0) < 5
    assert allowed_wall_s("image", 500_000_000, 1_500_000_000) > 600


def test_a_pipe_a_folder_and_a_missing_file_are_errors_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe.nii")
    for name in ("pipe.nii", "", "gone.nii"):
        with pytest.raises(ReadError, match="cannot be read"):
            decode(tmp_path / name, "image", max_bytes=LIMIT)


def test_an_error_of_the_caller_ends_the_decoder_that_waits_for_it(image):
    pids = []
    with pytest.raises(ZeroDivisionError):
        _read_while(image, lambda pid: pids.append(pid) or 1 / 0)
    assert _gone(pids[0])
    assert np.array_equal(decode(image, "image", max_bytes=LIMIT), _voxels())


def test_many_threads_decode_at_once_with_one_process_for_each_core(image, tmp_path, monkeypatch):
    monkeypatch.setattr(decoder_pool, "_pool", decoder_pool._Pool())
    monkeypatch.setattr(decoder_pool, "cores", lambda: 3)
    hu = _rle(tmp_path / "one")

    def work(k: int) -> bool:
        if k % 3:
            return np.array_equal(decode(tmp_path / "one", "dicom", max_bytes=LIMIT), hu)
        return np.array_equal(decode(image, "image", max_bytes=LIMIT), _voxels())

    try:
        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, range(60)))
        assert 1 <= len(decoder_pool._pool.children) <= 3
    finally:
        decoder_pool._pool.end()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_a_forked_process_has_decoders_of_its_own(image):
    code = """
import os, sys, warnings
from pathlib import Path
from hilum.reading import decoder_pool
warnings.simplefilter("ignore", DeprecationWarning)  # since Python 3.12, of a fork beside threads
path = Path(sys.argv[1])
first = decoder_pool.decode(path, "image", max_bytes=10**9)
(mine,) = decoder_pool._pool.children
read, write = os.pipe()
if os.fork() == 0:
    again = decoder_pool.decode(path, "image", max_bytes=10**9)
    (other,) = decoder_pool._pool.children
    right = (again == first).all() and other.process.pid != mine.process.pid
    os.write(write, b"1" if right else b"0")
    os._exit(0)
assert (decoder_pool.decode(path, "image", max_bytes=10**9) == first).all()
assert decoder_pool._pool.children == {mine}
print(os.read(read, 1).decode())
"""
    done = _run(code, image)
    assert (done.stdout.strip(), done.stderr) == ("1", "")


@pytest.mark.parametrize("end", ["", "os._exit(0)", "os.kill(os.getpid(), signal.SIGKILL)"])
def test_decoders_end_with_the_process_that_started_them_however_it_ends(image, end):
    code = f"""
import os, signal, sys
from pathlib import Path
from hilum.reading import decoder_pool
decoder_pool.decode(Path(sys.argv[1]), "image", max_bytes=10**9)
print(*(c.process.pid for c in decoder_pool._pool.children), flush=True)
{end}
"""
    done = _run(code, image)
    assert done.stderr == ""
    assert _gone(int(done.stdout))


def test_the_parent_never_loads_a_native_decoder(image):
    code = """
import sys
from hilum.reading.reader import read
read(sys.argv[1])
print({"SimpleITK", "nibabel"} & set(sys.modules))
"""
    assert _run(code, image).stdout.strip() == "set()"


def test_a_decoder_loads_only_the_libraries_that_its_files_need(image, tmp_path, monkeypatch):
    monkeypatch.setattr(decoder_pool, "_pool", decoder_pool._Pool())
    _rle(tmp_path / "one")
    try:
        decode(image, "image", max_bytes=LIMIT)
        (child,) = decoder_pool._pool.children
        assert "SimpleITK" not in Path(f"/proc/{child.process.pid}/maps").read_text()
        decode(tmp_path / "one", "dicom", max_bytes=LIMIT)
        assert "SimpleITK" in Path(f"/proc/{child.process.pid}/maps").read_text()
    finally:
        decoder_pool._pool.end()


def test_a_decoder_starts_without_what_the_parent_needs():
    code = """
import sys
import hilum.reading.decoder_child
print({"pydicom", "scipy", "torch", "pandas", "tqdm", "SimpleITK", "nibabel"} & set(sys.modules))
"""
    assert _run(code).stdout.strip() == "set()"


@pytest.mark.slow
def test_the_parent_holds_the_voxels_once(tmp_path):
    hu = np.tile(_voxels(), (20, 1, 1))  # 100 MB
    sitk.WriteImage(sitk.GetImageFromArray(hu[:, ::-1]), str(tmp_path / "scan.nii.gz"), True, 1)
    code = """
import resource, sys
from pathlib import Path
from hilum.reading import decoder_pool
from hilum.reading.images import reader
path = Path(sys.argv[1])
decoder_pool.decode(Path(sys.argv[2]), "dicom", max_bytes=10**9)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
volume = reader.read_image(path)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(grown * 1024 / volume.voxels_hu.nbytes)
"""
    _rle(tmp_path / "one")
    assert float(_run(code, tmp_path / "scan.nii.gz", tmp_path / "one").stdout) <= 1.3


def test_more_voxels_than_are_allowed_are_refused(tmp_path):
    _rle(tmp_path / "one")
    with pytest.raises(ReadError, match=r"one: must have at most 1e-08 GB of voxels"):
        decode(tmp_path / "one", "dicom", max_bytes=10)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux says how much memory a process has mapped")
def test_a_bomb_is_an_error_before_it_has_filled_the_memory(tmp_path):
    """A deflated file of 1 MB with an element of 1 GB: GDCM inflates it, as far as it gets memory."""
    stored = np.zeros((8, 8), np.uint16)
    one = slice_dataset(stored, (0, 0, 0), syntax=DeflatedExplicitVRLittleEndian)
    one.save_as(tmp_path / "one", enforce_file_format=True)
    whole = (tmp_path / "one").read_bytes()
    start = 144 + struct.unpack_from("<I", whole, 140)[0]
    squeeze = zlib.compressobj(9, wbits=-15)
    parts = [squeeze.compress(struct.pack("<HH2sHI", 0x9, 0x10, b"OB", 0, 1 << 30))]
    parts += [squeeze.compress(bytes(1 << 24)) for _ in range(64)]
    (tmp_path / "one").write_bytes(whole[:start] + b"".join([*parts, squeeze.flush()]))
    with pytest.raises(ReadError, match="one: cannot be read"):
        decode(tmp_path / "one", "dicom", max_bytes=LIMIT)
    peaks = [Path(f"/proc/{c.process.pid}/status").read_text() for c in decoder_pool._pool.children]
    assert all(int(peak.split("VmHWM:")[1].split()[0]) < 1_200_000 for peak in peaks)


def test_what_a_file_is_called_does_not_matter(tmp_path):
    hu = _rle(tmp_path / "one")
    for name in ("Übersicht μ.dcm", "a\nb", "-x", " "):
        (tmp_path / "one").rename(tmp_path / name)
        assert np.array_equal(decode(tmp_path / name, "dicom", max_bytes=LIMIT), hu)
        (tmp_path / name).rename(tmp_path / "one")


def test_a_decoder_does_not_get_the_key_of_the_site(image):
    decode(image, "image", max_bytes=LIMIT)
    (child, *_) = decoder_pool._pool.children
    assert b"HILUM_KEY" not in Path(f"/proc/{child.process.pid}/environ").read_bytes()


def test_garbage_is_an_error(tmp_path):
    (tmp_path / "x.dcm").write_bytes(b"\0" * 128 + b"DICM" + os.urandom(2000))
    with pytest.raises(ReadError, match=r"x\.dcm: cannot be read") as caught:
        decode(tmp_path / "x.dcm", "dicom", max_bytes=LIMIT)
    assert str(tmp_path) not in caught.value.message
