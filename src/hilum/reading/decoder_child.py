"""What a decoder's process runs: native libraries, kept within limits, that turn files into voxels on a pipe.

It imports no more of Hilum than it needs, as it is started for each process that reads.
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
from hilum.reading.images.files import image_format, image_suffix, text_header, text_layout
from hilum.reading.images.nifti import nifti_layout
from hilum.reading.images.placement import Placement
from hilum.reading.images.text_geometry import meta_placement, nrrd_placement
from hilum.reading.images.voxel_file import Layout, stored_voxels

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
    """Seconds on the clock that decoding may take: many times the computing, as other processes want cores too."""
    if file_bytes <= SMALL_FILE and voxel_bytes <= SMALL_VOXELS:
        return 4.2
    return 10 * allowed_cpu_s(kind, file_bytes, voxel_bytes)


def main() -> None:
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
            _send(answers, {"error": str(exc), "is_geometry": isinstance(exc, GeometryError)})
        except MemoryError:
            _send(answers, {"error": f"{Path(request['path']).name} cannot be read: {_TOO_MUCH}", "is_geometry": False})


_TOO_MUCH = "decoding it takes more memory than its voxels can explain, or than there is"


def _send(answers: BinaryIO, record: dict[str, Any]) -> None:
    text = json.dumps(record).encode()
    answers.write(struct.pack("<I", len(text)) + text)


def _named_for_itk(path: Path, until_read: ExitStack) -> Path:
    """The path, or a link to it where its name is no UTF-8, as on old file servers: ITK takes no other."""
    try:
        str(path).encode()
    except UnicodeEncodeError:
        folder = until_read.enter_context(tempfile.TemporaryDirectory(prefix="hilum-"))
        link = Path(folder) / f"scan{image_suffix(path)}"
        link.symlink_to(path)
        return link
    return path


def _answer(answers: BinaryIO, request: dict[str, Any], until_read: ExitStack) -> None:
    path, kind, max_bytes = Path(request["path"]), request["kind"], request["max_bytes"]
    try:
        file_bytes = path.stat().st_size
        used_s = _computed_s()

        def promise(num_bytes: int, place: Placement | None = None) -> None:
            _limit(used_s + allowed_cpu_s(kind, file_bytes, num_bytes), 2 * file_bytes + 3 * num_bytes)
            _send(answers, {"voxel_bytes": num_bytes, "doubts": place.doubts if place else ()})

        _limit(used_s + allowed_cpu_s(kind, file_bytes, 0), 2 * file_bytes)
        if kind == "image":
            num_bytes, layout, place = _image(path, max_bytes)
            promise(num_bytes, place)
            if layout:
                stored = stored_voxels(layout, path.name)
            else:  # text, several files: what is rare
                image = _itk_reader(path, _ITK_IO[image_format(path)], until_read).Execute()
                stored = _view(image)
            _send_image(answers, stored, layout, place, path, request["range_hu"])
            return
        reader = _itk_reader(path, "GDCMImageIO", until_read)
        reader.ReadImageInformation()
        promise(_promised_dicom(reader, path, max_bytes))
        image = reader.Execute()
        stored = _view(image)
        frames = stored.reshape(-1, *stored.shape[-2:])
        _send_voxels(answers, frames, dtype=stored.dtype.str, shape=frames.shape, affine=None)
    except OSError as exc:
        msg = f"{path.name} cannot be read: {exc.strerror or 'not a file'}"
        raise ReadError(msg) from exc
    except (RuntimeError, TypeError, ValueError, OverflowError) as exc:  # ITK's, and SWIG's, of a name that is no UTF-8
        msg = f"{path.name} cannot be read: {_reason(exc)}"
        raise ReadError(msg) from exc


def _itk_reader(path: Path, io: str, until_read: ExitStack) -> Any:
    import SimpleITK as sitk

    reader = sitk.ImageFileReader()
    reader.SetFileName(str(_named_for_itk(path, until_read)))
    reader.SetImageIO(io)
    return reader


def _view(image: Any) -> np.ndarray:
    import SimpleITK as sitk

    view: np.ndarray = sitk.GetArrayViewFromImage(image)
    return view


def _promised_dicom(reader: Any, path: Path, max_bytes: int) -> int:
    """Bytes of the decoded pixels, by the header."""
    bits = re.search(r"(\d+)-bit", _pixel_type(reader))
    promised: int = math.prod(reader.GetSize()) * reader.GetNumberOfComponents() * int(bits[1] if bits else 64) // 8
    if promised > max_bytes:
        msg = f"too-large: {path.name} must have at most {max_bytes / 1e9:g} GB of voxels, has {promised / 1e9:.3g} GB"
        raise ReadError(msg)
    return promised


def _image(path: Path, max_bytes: int) -> tuple[int, Layout | None, Placement]:
    """Bytes of an image's voxels, where they lie in a file if that is simple to say, and where they lie in space."""
    kind = image_format(path)
    if kind == "nifti":
        layout, place = nifti_layout(path, max_bytes)
        return layout.num_bytes, layout, place
    header = text_header(path)
    text = text_layout(path, header, max_bytes)
    placed = nrrd_placement if kind == "nrrd" else meta_placement
    return text.num_bytes, text.layout, placed(path.name, header.fields, text.sizes)


def _send_image(
    answers: BinaryIO,
    stored: np.ndarray,
    layout: Layout | None,
    place: Placement,
    path: Path,
    range_hu: tuple[float, float],
) -> None:
    """Send the voxels of an image: int16 if all of them that can be HU are whole numbers, else float32."""
    if stored.size != math.prod(place.shape):
        msg = f"{path.name} cannot be read: its header says in two ways how many voxels there are"
        raise ReadError(msg)
    stored = stored.reshape(place.shape)
    is_whole = _is_whole(stored, layout, *range_hu)
    planes = (_limited(_values(plane, layout), is_whole, range_hu[1]) for plane in stored)
    dtype = np.dtype("i2" if is_whole else "f4").str
    _send_voxels(answers, planes, dtype=dtype, shape=place.shape, affine=place.affine.tolist())


def _values(plane: np.ndarray, layout: Layout | None) -> np.ndarray:
    return layout.rescaled(plane) if layout else plane


def _is_whole(stored: np.ndarray, layout: Layout | None, low_hu: float, high_hu: float) -> bool:
    """Whether all values within a scanner's range are whole numbers; others will be air or metal anyway."""
    if stored.dtype.kind in "iu" and not (layout and layout.is_rescaled):
        return True
    for plane in stored:
        values = _values(plane, layout)
        fractional = values != np.rint(values)
        if np.any(fractional & (values >= low_hu) & (values <= high_hu)):
            return False
    return True


def _limited(values: np.ndarray, is_whole: bool, high_hu: float) -> np.ndarray:
    """As int16, with metal just above the range, and the lowest number for what is lower or none; or as float32."""
    if not is_whole:
        return values.astype(np.float32)
    lowest = np.iinfo(np.int16).min
    if values.dtype.kind == "f":
        values = np.rint(np.where(values >= lowest, values, lowest))  # below the range there may be fractions
    elif values.dtype.kind == "i":
        values = np.maximum(values, max(lowest, np.iinfo(values.dtype).min))
    top = high_hu + 1 if values.dtype.kind == "f" else min(high_hu + 1, np.iinfo(values.dtype).max)
    return np.where(values <= high_hu, values, values.dtype.type(top)).astype(np.int16)


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


def _pixel_type(reader: Any) -> str:
    import SimpleITK as sitk

    return str(sitk.GetPixelIDValueAsString(reader.GetPixelIDValue()))


def _computed_s() -> float:
    """Seconds that this process has computed."""
    if resource is None:  # pragma: no cover
        return 0.0
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _limit(computed_s: float, more_bytes: int) -> None:
    """Bound this process: to the seconds that it will have computed then, and to so much more memory than now."""
    if resource is None:  # pragma: no cover
        return
    _lower(resource.RLIMIT_CPU, math.ceil(computed_s))
    mapped = Path("/proc/self/statm")
    if mapped.is_file():  # elsewhere nobody says how much is mapped already
        now = int(mapped.read_text().split()[0]) * resource.getpagesize()
        _lower(resource.RLIMIT_AS, now + more_bytes + _ROOM)


def _lower(kind: int, wanted: int) -> None:
    hard = resource.getrlimit(kind)[1]
    resource.setrlimit(kind, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _reason(error: BaseException) -> str:
    """Why ITK refuses a file, in our words: its own may quote the header, where names can stand."""
    text = str(error)
    if re.search(r"bad_alloc|[Ff]ailed to allocate|allocation", text):
        return _TOO_MUCH
    if "orthonormal" in text:
        return "its axes must be at right angles"
    return "its header or voxels are damaged or missing"
