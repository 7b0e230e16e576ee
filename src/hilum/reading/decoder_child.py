"""The program of a decoder's process: native libraries, within limits, turn files into voxels on a pipe.

It imports as little of Hilum as it can, as it is started for each process that reads.
"""

import importlib
import json
import math
import os
import re
import signal
import struct
import tempfile
from collections.abc import Iterable
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from hilum.errors import GeometryError, ReadError
from hilum.reading.images.files import image_format, image_suffix, text_header, unreadable_image
from hilum.reading.images.nifti import NiftiVoxels, nifti_layout
from hilum.reading.images.placement import Placement, check_channels, checked_bytes
from hilum.reading.images.text_image import check_length, check_storage, inflated_voxels, text_placement
from hilum.volume import HIGHEST_HU, LOWEST_HU

try:
    import resource
except ImportError:  # pragma: no cover  # Windows has none: sizes are still checked in the header, time on the clock
    resource = None  # type: ignore[assignment]

SMALL_FILE, SMALL_VOXELS = 10**6, 50 * 10**6
_ROOM = 512 << 20
_LOADING_S, _LOADING_BYTES = 60, 2 << 30
_ITK_IO = {"nrrd": "NrrdImageIO", "meta": "MetaImageIO"}
_DICOM_BYTES_S, _IMAGE_BYTES_S = 4e6, 1e7
"""Bytes that the slowest machine decodes in a second: of JPEG 2000, and of what deflate made."""


def allowed_cpu_s(kind: str, file_bytes: int, voxel_bytes: int) -> float:
    """Seconds of computing that decoding may take."""
    if kind == "dicom":
        return 2 + file_bytes / _DICOM_BYTES_S
    return 3 + (file_bytes + voxel_bytes) / _IMAGE_BYTES_S


def allowed_wall_s(kind: str, file_bytes: int, voxel_bytes: int) -> float:
    """Seconds on the clock that decoding may take: ten times the computing, as other processes share the cores."""
    if file_bytes <= SMALL_FILE and voxel_bytes <= SMALL_VOXELS:
        return 4.2
    return 10 * allowed_cpu_s(kind, file_bytes, voxel_bytes)


def serve() -> None:
    """Answer requests from standard input until it ends.

    A request and an answer are JSON behind their length. To a request for a library comes one answer, once it is
    loaded. To each other request come two answers, how much will be decoded and what was, or one with an error in
    place of either; behind the second one lie the voxels.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # it is for the parent, whose end of the pipe then closes
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb", buffering=0)
    nowhere = os.open(os.devnull, os.O_RDWR)
    for fd in (0, 1, 2):  # the libraries write to them on their own
        os.dup2(nowhere, fd)
    if resource:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _send(answers, {"ready": True})
    while head := requests.read(4):
        request = json.loads(requests.read(struct.unpack("<I", head)[0]))
        if "library" in request:
            _limit(_computed_s() + _LOADING_S, _LOADING_BYTES)
            importlib.import_module(request["library"])
            _send(answers, {"loaded": True})
            continue
        try:
            with ExitStack() as until_read:
                _answer(answers, request, until_read)
        except ReadError as exc:
            is_geometry = isinstance(exc, GeometryError)
            _send(answers, {"error": exc.message, "code": exc.code, "is_geometry": is_geometry})
        except MemoryError:
            _send(answers, {"error": f"cannot be read: {_TOO_MUCH}", "code": None, "is_geometry": False})


_TOO_MUCH = "decoding it takes more memory than its voxels can explain, or than there is"


def _send(answers: BinaryIO, record: dict[str, Any]) -> None:
    text = json.dumps(record).encode()
    answers.write(struct.pack("<I", len(text)) + text)


def _answer(answers: BinaryIO, request: dict[str, Any], until_read: ExitStack) -> None:
    path, max_bytes = Path(request["path"]), request["max_bytes"]
    try:
        decode = _send_dicom if request["kind"] == "dicom" else _send_image
        decode(answers, path, _Budget(request["kind"], path, answers), max_bytes, until_read)
    except OSError as exc:
        raise unreadable_image(exc.strerror or "not a file") from exc
    except (RuntimeError, TypeError, ValueError, OverflowError) as exc:  # ITK's, and SWIG's, of a name that is no UTF-8
        raise unreadable_image(_reason(exc)) from exc


class _Budget:
    """Time and memory that decoding one file may take: by the size of the file, and then of its voxels."""

    def __init__(self, kind: str, path: Path, answers: BinaryIO) -> None:
        self._kind, self._file_bytes, self._used_s = kind, path.stat().st_size, _computed_s()
        self._answers = answers
        self._limit(0)

    def promise(self, num_bytes: int, place: Placement | None = None) -> None:
        """Allow what so many bytes of voxels take, and tell the parent, which allows the time for it."""
        self._limit(num_bytes)
        _send(self._answers, {"voxel_bytes": num_bytes, "doubts": place.doubts if place else ()})

    def _limit(self, num_bytes: int) -> None:
        computed_s = self._used_s + allowed_cpu_s(self._kind, self._file_bytes, num_bytes)
        _limit(computed_s, 2 * self._file_bytes + 3 * num_bytes)


def _send_dicom(answers: BinaryIO, path: Path, budget: _Budget, max_bytes: int, until_read: ExitStack) -> None:
    reader = _itk_reader(path, "GDCMImageIO", until_read)
    budget.promise(_promised_bytes(reader, max_bytes))
    image = reader.Execute()
    stored = _view(image)
    frames = stored.reshape(-1, *stored.shape[-2:])
    _send_voxels(answers, frames, dtype=stored.dtype.str, shape=frames.shape, affine=None)


def _send_image(answers: BinaryIO, path: Path, budget: _Budget, max_bytes: int, until_read: ExitStack) -> None:
    """Send the voxels of an image: int16 if all of them that can be HU are whole numbers, else float32."""
    nifti: NiftiVoxels | None = None
    if image_format(path) == "nifti":
        nifti, place = nifti_layout(path, max_bytes)
        budget.promise(nifti.num_bytes, place)
        stored = nifti.stored()
    else:
        header = text_header(path)
        files = check_storage(path, header)
        reader = _itk_reader(path, _ITK_IO[image_format(path)], until_read)
        check_channels(reader.GetNumberOfComponents())
        num_bytes = _promised_bytes(reader, max_bytes)
        check_length(files, header, math.prod(reader.GetSize()), num_bytes)
        place = text_placement(path, header, reader)
        budget.promise(num_bytes, place)
        inflated = inflated_voxels(path, header, _dtype(reader), math.prod(reader.GetSize()))
        image = reader.Execute() if inflated is None else None  # kept here, as the array is a view of it
        stored = _view(image) if inflated is None else inflated
    if stored.size != math.prod(place.shape):
        msg = "its header says in two ways how many voxels there are"
        raise unreadable_image(msg)
    stored = stored.reshape(place.shape)
    is_whole = _is_whole(stored, nifti)
    planes = (_limited(_values(plane, nifti), is_whole) for plane in stored)
    dtype = np.dtype("i2" if is_whole else "f4").str
    _send_voxels(answers, planes, dtype=dtype, shape=place.shape, affine=place.affine.tolist())


def _itk_reader(path: Path, io: str, until_read: ExitStack) -> Any:
    """A reader that has read the header."""
    import SimpleITK as sitk

    try:
        str(path).encode()
    except UnicodeEncodeError:  # as on old file servers: ITK takes no name but UTF-8
        folder = until_read.enter_context(tempfile.TemporaryDirectory(prefix="hilum-"))
        link = Path(folder) / f"scan{image_suffix(path)}"
        link.symlink_to(path)
        path = link
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    reader.SetImageIO(io)
    try:
        reader.ReadImageInformation()
    except RuntimeError as exc:
        raise unreadable_image(_reason(exc, "its header is damaged, incomplete or contradicts itself")) from exc
    return reader


def _promised_bytes(reader: Any, max_bytes: int) -> int:
    """Bytes of the decoded voxels, by the header."""
    import SimpleITK as sitk

    bits = re.search(r"(\d+)-bit", str(sitk.GetPixelIDValueAsString(reader.GetPixelIDValue())))
    num_bits = int(bits[1]) if bits else 64
    return checked_bytes(math.prod(reader.GetSize()) * reader.GetNumberOfComponents() * num_bits // 8, max_bytes)


def _view(image: Any) -> np.ndarray:
    import SimpleITK as sitk

    view: np.ndarray = sitk.GetArrayViewFromImage(image)
    return view


def _dtype(reader: Any) -> np.dtype:
    """Type of the voxels, by the header."""
    import SimpleITK as sitk

    return _view(sitk.Image([1, 1, 1], reader.GetPixelIDValue())).dtype


def _values(plane: np.ndarray, nifti: NiftiVoxels | None) -> np.ndarray:
    return nifti.rescaled(plane) if nifti else plane


def _is_whole(stored: np.ndarray, nifti: NiftiVoxels | None) -> bool:
    """Whether all values within a scanner's range are whole numbers; values outside it become air or are limited."""
    if stored.dtype.kind in "iu" and not (nifti and nifti.is_rescaled):
        return True
    for plane in stored:
        values = _values(plane, nifti)
        fractional = values != np.rint(values)
        if np.any(fractional & (values >= LOWEST_HU) & (values <= HIGHEST_HU)):
            return False
    return True


def _limited(values: np.ndarray, is_whole: bool) -> np.ndarray:
    """Values as float32, or as int16: limited to just above a scanner's range, lower ones and nan the lowest number."""
    if not is_whole:
        return values.astype(np.float32)
    lowest = np.iinfo(np.int16).min
    if values.dtype.kind == "f":
        values = np.rint(np.where(values >= lowest, values, lowest))  # below the range there may be fractions
    elif values.dtype.kind == "i":
        values = np.maximum(values, max(lowest, np.iinfo(values.dtype).min))
    top = HIGHEST_HU + 1 if values.dtype.kind == "f" else min(HIGHEST_HU + 1, np.iinfo(values.dtype).max)
    return np.where(values <= HIGHEST_HU, values, values.dtype.type(top)).astype(np.int16)


def _send_voxels(answers: BinaryIO, planes: Iterable[np.ndarray], **record: Any) -> None:
    """Send type, shape and affine, then the voxels, plane by plane."""
    _send(answers, record)
    is_done = False
    try:
        for plane in planes:
            rest = np.ascontiguousarray(plane).data.cast("B")
            while rest:
                rest = rest[answers.write(rest) :]
        is_done = True
    finally:
        if not is_done:
            os._exit(1)  # an error sent now would be taken for voxels


def _computed_s() -> float:
    """Seconds that this process has computed."""
    if resource is None:  # pragma: no cover
        return 0.0
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _limit(computed_s: float, more_bytes: int) -> None:
    """Limit the CPU time of this process, in total, and the memory that it may still allocate."""
    if resource is None:  # pragma: no cover
        return
    _lower(resource.RLIMIT_CPU, math.ceil(computed_s))
    mapped = Path("/proc/self/statm")
    if mapped.is_file():  # other systems do not tell how much is mapped already
        now = int(mapped.read_text().split()[0]) * resource.getpagesize()
        _lower(resource.RLIMIT_AS, now + more_bytes + _ROOM)


def _lower(kind: int, wanted: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _reason(error: BaseException, why: str = "its header or voxels are damaged or missing") -> str:
    """The reason why ITK refuses a file, in our words: its own message may quote the header, which can hold names."""
    return _TOO_MUCH if re.search(r"bad_alloc|[Ff]ailed to allocate|allocation", str(error)) else why
