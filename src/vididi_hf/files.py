"""Atomic writes, even after a kill or on a full disk, and a lock: one process at a time writes a folder."""

import errno
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from vididi_hf.containers_vididi import printable as printable  # the same in the code that checkpoints carry

_UNFINISHED = ".part"
_LOCK = ".vididi.lock"
_LOCKED_BYTE = 1 << 30  # behind the text: on Windows, nobody else can read a locked byte
_DISK_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
# What some network mounts answer to requests that they do not know, such as fsync of a folder.
_UNSUPPORTED = (errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK)
_held: dict[Path, int] = {}  # the locks of this process, with its id: a fork inherits the table, but no lock


@contextmanager
def folder_lock(folder: str | Path, name: str = _LOCK) -> Iterator[None]:
    """Keeps other processes out of a folder, which is created; a BlockingIOError names the process that holds it.

    The lock ends with the process. Forked children do not inherit it. On file systems without locks, it does nothing.
    """
    path = Path(folder).resolve() / name
    if _held.get(path) == os.getpid():
        yield
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _open_locked(path)
    _held[path] = os.getpid()
    try:
        with suppress(OSError):  # on a full disk, the lock has no name
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()} on {socket.gethostname()}".encode())
        yield
    finally:
        if _held.get(path) == os.getpid():
            del _held[path]
            with suppress(OSError):
                path.unlink()
        os.close(descriptor)


def lock_output_dir(folder: str | Path) -> ExitStack:
    """Takes a `folder_lock` in the main process of a run. All processes must call this, and all raise its error."""
    from accelerate import PartialState
    from accelerate.utils import broadcast_object_list

    lock = ExitStack()
    refused: list[OSError | None] = [None]
    if PartialState().is_main_process:
        try:
            lock.enter_context(folder_lock(folder))
        except OSError as error:
            refused = [error]
    broadcast_object_list(refused)
    if refused[0] is not None:
        raise refused[0]
    return lock


def _open_locked(path: Path) -> int:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        _lock(descriptor)
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    except FileNotFoundError:
        pass
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            return descriptor
        holder = os.read(descriptor, 1024).decode(errors="replace") or "unknown"
        os.close(descriptor)
        advice = f"or choose another folder (if its machine is gone, remove {path.name} there)"
        raise BlockingIOError(f"{path.parent} is in use by process {holder}: wait until it ends, {advice}") from None
    os.close(descriptor)  # its last holder has just removed the file
    return _open_locked(path)


def _lock(descriptor: int) -> None:
    # Unlike flock, lockf works on NFS, and a fork does not inherit it: orphaned workers cannot keep the lock.
    try:
        import fcntl
    except ImportError:
        import msvcrt

        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, _LOCKED_BYTE)


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yields a hidden path for a file or a new folder, and renames it to `path` once its content is on the disk.

    What exists there stays until then. An exception removes what was written; the next write removes what a kill left.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}{_UNFINISHED}")
    if unfinished.is_dir():
        shutil.rmtree(unfinished)
    with _discard_on_error(unfinished, path):
        yield unfinished
        give_normal_permissions(unfinished)
        for written in (unfinished, *unfinished.rglob("*")):
            _flush(written)
        if path.is_dir():
            if not unfinished.is_dir():
                raise IsADirectoryError(errno.EISDIR, "is a folder: choose the name of a file", str(path))
            remove_folder(path)  # unlike a file, a folder cannot be replaced in one step
        os.replace(unfinished, path)
        _flush(path.parent)


@contextmanager
def atomic_files(folder: str | Path, last: str) -> Iterator[Path]:
    """Yields a hidden folder, and moves its files to `folder` once all are on the disk; the file `last` at the end."""
    folder = Path(folder)
    unfinished = folder / f".files{_UNFINISHED}"
    _remove(unfinished)
    with _discard_on_error(unfinished, folder):
        unfinished.mkdir(parents=True)
        yield unfinished
        give_normal_permissions(unfinished)
        files = sorted(unfinished.iterdir(), key=lambda file: file.name == last)
        for written in files:
            _flush(written)
        for written in files:
            os.replace(written, folder / written.name)
        unfinished.rmdir()
        _flush(folder)


@contextmanager
def _discard_on_error(unfinished: Path, path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException as error:
        if isinstance(error, OSError) and error.errno in _DISK_ERRORS and error.filename is None:
            error.filename = str(path)  # the system does not say which file it could not write
        with suppress(OSError):  # report the first error
            _remove(unfinished)
        raise


def give_normal_permissions(folder: Path) -> None:
    """Lets the umask decide who may read files; libraries that write to a temporary file first allow only the owner."""
    os.umask(mask := os.umask(0o022))  # the only way to read it
    for path in [folder, *folder.rglob("*")]:
        if path.is_file() and not path.is_symlink():
            path.chmod(path.stat().st_mode | (0o666 & ~mask))


def write_text(path: str | Path, text: str) -> Path:
    """Writes a text file atomically and returns its path."""
    with atomic_write(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return Path(path)


def remove_folder(path: Path) -> None:
    """Removes a folder so that nobody sees half of it under its name."""
    doomed = path.with_name(f".{path.name}.old{_UNFINISHED}")
    _remove(doomed)
    os.replace(path, doomed)
    shutil.rmtree(doomed)


def remove_unfinished(folder: str | Path) -> None:
    """Removes what a killed write or removal left in a folder."""
    for leftover in Path(folder).glob(f".*{_UNFINISHED}"):
        _remove(leftover)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Waits until a file or the list of a folder's files is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        if not (path.is_dir() and error.errno in _UNSUPPORTED):
            raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        os.close(descriptor)


def storable(path: str | os.PathLike[str]) -> str:
    r"""Writes a path as UTF-8 text, which Arrow needs. Other bytes become `\xe9`, which `local_path` undoes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
