"""Inputs from files or pipes, and outputs that are whole or not there: written beside their place, then renamed."""

import contextlib
import errno
import hashlib
import io
import os
import re
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Literal

from genome_lm.compression import DAMAGES, bgzip_output, unpacked
from genome_lm.errors import GenomeLMError
from genome_lm.lines import lines_of
from genome_lm.store_place import is_url, store_place

Report = Callable[[memoryview], None]
_BLOCK = 1 << 20
"""Bytes read at one time."""
_START = 16
"""Bytes that say how a file is packed."""
_PIPE_SECONDS = 10
"""How long somebody is waited for who writes into a pipe."""
_ROOM = 1 << 16
"""Bytes below which a disk is full."""
_LOCK = "genome-lm.lock"
"""What a process locks in each of its temporary folders, so that others see whether it lives."""
_NAME = 50
"""Characters of an output's name in that of its temporary folder: a whole one could make it too long."""
_MARKS = {
    "benchmark.json": b"genome_lm_version",
    "config.json": b"genome_lm_version",
    "job.json": b"weights_sha256",
    "model.safetensors": b"genome_lm_version",
    "run.json": b"intervals_sha256",
    "suite.json": b"genome_lm_version",
    "summary.json": b"genome-lm",
    "zarr.json": b"genome_lm",
}
"""Files of which each folder that genome-lm writes has one, and what it holds."""
_MARK_BYTES = 4 << 20
"""Bytes of such a file that are looked through."""


@contextlib.contextmanager
def replacing_file(path: Path) -> Iterator[Path]:
    """A temporary path with the same name that takes the place of `path` when the block ends without an error.

    See `replacing`, which also is for several outputs.
    """
    with replacing(files=[path]) as (temporary,):
        yield temporary


@contextlib.contextmanager
def replacing_folder(path: Path) -> Iterator[Path]:
    """A temporary folder that takes the place of `path` when the block ends without an error; see `replacing`."""
    with replacing(folders=[path]) as (temporary,):
        yield temporary


@contextlib.contextmanager
def replacing(files: Sequence[Path] = (), folders: Sequence[Path] = ()) -> Iterator[list[Path]]:
    """Temporary paths that take the places of a command's outputs, all together, or none after an error.

    Example: `with replacing(files=[table, figure], folders=[store]) as (new_table, new_figure, new_store): …`

    What is a link is followed. What is written gets the permissions that the process' umask gives, whatever the
    library that wrote it chose. What a killed process left beside an output is removed.

    Args:
        files: Outputs that are files; the block makes them under their temporary paths.
        folders: Outputs that are folders; the temporary ones are there, and empty.

    Yields:
        The temporary paths, those of the files first. Each has the name of its output.

    Raises:
        GenomeLMError: If an output can't be written, or would replace what is not an output of genome-lm. Any error
            in the block is said as one of a full disk if the disk is full: some libraries do not say so.
    """
    outputs = [_writable(path, is_folder=False) for path in files]
    outputs += [_writable(path, is_folder=True) for path in folders]
    with contextlib.ExitStack() as stack:
        rooms = [stack.enter_context(_beside(path)) for path in outputs]
        for room in rooms[len(files) :]:
            room.new.mkdir()
        yield [room.new for room in rooms]
        for room in rooms:
            room.open_to_readers()
        _take_places(rooms)


def _writable(path: Path, is_folder: bool) -> Path:
    """Where an output is to be written: `path`, or what it links to."""
    _refuse_url(path)
    with writing(path):
        place = Path(os.path.realpath(path)) if path.is_symlink() or path.name in ("", "..") else path
        if place.is_symlink():
            place.stat()  # a link that leads to itself has nothing to write to
        _refuse_foreign(place)
        is_other = place.exists() and place.is_dir() != is_folder
    if is_other:
        raise GenomeLMError(f"{path}: is a {'file' if is_folder else 'folder'}; give another name, or remove it")
    return place


class _Room:
    """A temporary folder beside an output, on the same file system; it is locked for as long as its process lives.

    Attributes:
        path: The output.
        new: Where it is written.
        old: Where what it replaces is kept until it is there.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._folder, self._lock = _new_folder(path)
        unlocked = self._folder / "lock"
        _try_lock(self._lock)
        unlocked.rename(self._folder / _LOCK)  # nobody takes the folder for a dead process' before it is locked
        self.new, self.old = (self._folder / name / path.name for name in ("new", "old"))
        self.new.parent.mkdir()
        self.old.parent.mkdir()

    def open_to_readers(self) -> None:
        """Give what was written the permissions that the umask allows; some libraries let only the owner read."""
        usual = os.fstat(self._lock.fileno()).st_mode & 0o666
        for file in self.new.rglob("*") if self.new.is_dir() else [self.new]:
            if file.is_file() and (mode := file.stat().st_mode) & usual != usual:
                file.chmod(mode & 0o777 | usual)

    def close(self) -> None:
        """Remove the folder and what is left in it."""
        _remove_room(self._folder)
        self._lock.close()


def _new_folder(path: Path) -> tuple[Path, IO[bytes]]:
    """A temporary folder beside an output, and a file in it that is to be locked."""
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name[:_NAME]}.", dir=path.parent))
        # Another process may have removed it, since it was empty, as what a dead one left.
        with contextlib.suppress(FileNotFoundError):
            return folder, (folder / "lock").open("wb")


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[_Room]:
    """A room beside an output; removed in the end."""
    with folder_around(path):
        try:
            _remove_dead_rooms(path)
            room = _Room(path)
        except OSError as error:
            raise GenomeLMError(f"{path}: can't write there: {error.strerror}") from error
        try:
            with writing(path):
                yield room
        finally:
            room.close()


@contextlib.contextmanager
def folder_around(path: Path) -> Iterator[None]:
    """Make the folder of an output, with those around it. If the block ends with an error, the empty ones go again.

    Raises:
        GenomeLMError: If the folder can't be made; it names the output.
    """
    _refuse_url(path)
    try:
        new = [folder for folder in path.parents if not folder.exists()]
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise GenomeLMError(f"{path}: can't write there: {error.strerror}") from error
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):  # the first that holds something ends it
            for folder in new:
                folder.rmdir()
        raise


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what goes wrong on writing a file or folder into one error that names it, not where it is written first.

    Args:
        path: What is written.

    Raises:
        GenomeLMError: In place of an `OSError`, and of any error while the disk is full.
    """
    try:
        yield
    except GenomeLMError:
        raise
    except Exception as error:
        if _is_full(path.parent):
            raise GenomeLMError(f"{path}: {os.strerror(errno.ENOSPC)}") from error
        if not isinstance(error, OSError):
            raise
        named = _output_of(Path(os.fsdecode(error.filename))) if isinstance(error.filename, str | bytes) else path
        raise GenomeLMError(f"{named}: {error.strerror or error}") from error


def _refuse_url(path: Path) -> None:
    if is_url(path):
        raise GenomeLMError(
            f"{store_place(path)}: outputs are written to this machine only; give a path, and copy the output there"
        )


def _output_of(path: Path) -> Path:
    """The output in whose room a path is; a path elsewhere itself."""
    for folder in path.parents:
        if folder.name == "new" and (folder.parent / _LOCK).exists():
            return folder.parents[1] / path.relative_to(folder).parts[0]
    return path


def _is_full(folder: Path) -> bool:
    """Whether the disk of a folder has no room for more bytes or files."""
    while not os.path.exists(folder):
        folder = folder.parent
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize < _ROOM or (disk.f_files > 0 and disk.f_favail == 0)


def _take_places(rooms: Sequence[_Room]) -> None:
    """Put every output in its place; if one can't be, take back the others."""
    begun = []
    try:
        for room in rooms:
            begun.append(room)
            # A folder can't be replaced in one step, nor can several files. After a kill in between, the next run
            # puts the old one back.
            if room.path.is_dir() or (len(rooms) > 1 and room.path.exists()):
                room.path.rename(room.old)
            room.new.replace(room.path)
    except OSError:
        for room in reversed(begun):
            if not room.new.exists() and room.path.exists():
                room.path.rename(room.new)
            if room.old.exists():
                room.old.rename(room.path)
        raise


def _remove_dead_rooms(path: Path) -> None:
    """Remove the rooms of processes that were killed; first put back what one of them had taken away."""
    room_name = re.compile(re.escape(f".{path.name[:_NAME]}.") + "[a-z0-9_]{8}")
    for folder in path.parent.iterdir():
        if not room_name.fullmatch(folder.name):
            continue
        with contextlib.suppress(OSError):
            folder.rmdir()  # if it is empty: a process was killed while it removed the folder
        with contextlib.suppress(OSError), (folder / _LOCK).open("r+b") as lock:
            if not _try_lock(lock):
                continue
            for old in (folder / "old").glob("*"):  # none if the process was about to remove the folder
                if not (path.parent / old.name).exists():
                    old.rename(path.parent / old.name)
            _remove_room(folder)


def _remove_room(folder: Path) -> None:
    """Remove a temporary folder. The lock goes last, by which a later run knows what a killed process left."""
    for part in (folder / "new", folder / "old", folder):
        shutil.rmtree(part, ignore_errors=True)


def _try_lock(file: IO[bytes]) -> bool:
    """Lock an open file until it is closed; False if another process holds it, or locks don't work here."""
    try:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (ImportError, OSError):
        return False
    return True


@contextlib.contextmanager
def open_input(path: Path, report: Report = lambda data: None) -> Iterator[io.BufferedIOBase]:
    """Open a file, or standard input if the path is `-`, and unpack it by its first bytes. Pipes work too.

    Args:
        path: The file.
        report: Called with the bytes that are read, before they are unpacked.

    Raises:
        GenomeLMError: If it can't be read, is cut off or damaged, whether on opening or within the block.
    """
    try:
        if path.is_char_device() or path.is_block_device():
            raise GenomeLMError(f"{path}: can't read: a device, not a file")
        start, raw = (b"", sys.stdin.buffer) if str(path) == "-" else _open_raw(path)
        with io.BufferedReader(_Reported(start, raw, report), _BLOCK) as file:
            yield unpacked(file, path)
    except DAMAGES as error:
        raise GenomeLMError(f"{path}: can't read: cut off or damaged: {error}; get it again") from error
    except (OSError, UnicodeDecodeError) as error:
        raise GenomeLMError(f"{path}: can't read: {getattr(error, 'strerror', None) or error}") from error


def _open_raw(path: Path) -> tuple[bytes, Any]:
    """Open a file without a buffer: the bytes read so far, and the file.

    Opening a pipe waits for somebody to open it to write, for ever. Here it is opened at once, and its first byte is
    waited for: reading tells whether somebody has it open.
    """
    if not path.is_fifo():
        return b"", path.open("rb", buffering=0)
    file = open(path, "rb", buffering=0, opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK))
    start, end = b"", time.monotonic() + _PIPE_SECONDS
    while start == b"" and time.monotonic() < end:
        start = file.read(1)  # None if somebody has the pipe open but has not written yet
        if start == b"":
            time.sleep(0.01)
    if start == b"":
        file.close()
        raise GenomeLMError(f"{path}: can't read: nobody wrote into this pipe for {_PIPE_SECONDS} seconds")
    os.set_blocking(file.fileno(), True)
    return start or b"", file


class _Reported(io.RawIOBase):
    """A raw file that reports what is read from it, the bytes before it among them."""

    def __init__(self, start: bytes, raw: Any, report: Report) -> None:
        self._start, self._raw, self._report = start, raw, report

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        view, count = memoryview(buffer), len(self._start)
        view[:count], self._start = self._start, b""
        # A pipe may give a byte at a time, and how its content is packed shows in the first of them.
        while count < min(_START, len(view)) and (more := self._raw.readinto(view[count:])):
            count += more
        self._report(view[:count])
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


def read_blocks(path: Path) -> Iterator[bytes]:
    """The bytes of an input in blocks; see `open_input`."""
    with open_input(path) as file:
        while block := file.read(_BLOCK):
            yield block


def read_lines(path: Path) -> Iterator[str]:
    """The lines of an input, each with its end; see `open_input` and `lines_of`."""
    with open_input(path) as file:
        yield from lines_of(file, path)


def open_output(path: Path, mode: Literal["wt", "wb"] = "wt") -> Any:
    """Open a file to write text (UTF-8) or bytes to, packed as bgzip if its name ends in .gz or .bgz.

    Raises:
        GenomeLMError: If its name asks for another way of packing.
    """
    suffix = path.suffix.lower()
    if suffix in (".bz2", ".xz", ".zip", ".zst"):
        raise GenomeLMError(f"{path.name}: {suffix} is not written here; end the name in .gz, which is bgzip")
    file: Any = bgzip_output(path) if suffix in (".gz", ".bgz") else path.open("wb")
    return io.TextIOWrapper(file, encoding="utf-8", newline="\n") if mode == "wt" else file


def require_suffix(path: Path, suffixes: Sequence[str], *, any_case: bool = False) -> str:
    """The one of `suffixes` that a file's name ends in, and that says its format.

    Args:
        path: The file.
        suffixes: In lower case.
        any_case: Whether the name may have upper case there, as in .bedGraph.

    Raises:
        GenomeLMError: If the name ends otherwise.
    """
    name = path.name.lower() if any_case else path.name
    for suffix in suffixes:
        if name.endswith(suffix):
            return suffix
    raise GenomeLMError(f"{path}: the end of the name says the format; end it in {', '.join(suffixes)}")


def refuse_existing(path: Path, force: bool) -> None:
    """Raise a `GenomeLMError` if the output is `-`, or is there already and is not to be replaced, or not ours."""
    if str(path) == "-":
        raise GenomeLMError("this output can't go to standard output (-); give it a name")
    with writing(path):
        if path.exists() and not force:
            raise GenomeLMError(f"{path} exists; give another name, or --force to replace it")
        _refuse_foreign(path)


def _refuse_foreign(path: Path) -> None:
    """Raise a `GenomeLMError` if a device, a pipe, or a folder that genome-lm did not write is there."""
    if path.is_dir():
        if any(path.iterdir()) and not any(_holds(path / name, mark) for name, mark in _MARKS.items()):
            raise GenomeLMError(f"{path}: a folder that genome-lm did not write; give another name, or remove it")
    elif path.exists() and not path.is_file():
        raise GenomeLMError(f"{path}: neither a file nor a folder; give another name")


def _holds(path: Path, mark: bytes) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return mark in file.read(_MARK_BYTES)


def sha256(path: Path) -> str:
    """SHA-256 of a regular file, as hexadecimal digits.

    Raises:
        GenomeLMError: If it can't be read, or is a pipe or a device: what else reads it would get the rest.
    """
    try:
        if path.exists() and not path.is_file() and not path.is_dir():
            raise GenomeLMError(
                f"{path}: is read more than once, which a pipe or device can't be; write it to a file"
            )
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise GenomeLMError(f"{path}: can't read: {error.strerror or error}") from error
