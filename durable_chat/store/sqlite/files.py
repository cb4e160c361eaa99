"""
The database's files as the file system has them: one process has them, and they must stay where they are.

SQLite writes to a file that has been removed as to any other, and all of it is lost when the process ends. So the path
is compared with the open file before anything is acknowledged.
"""

from __future__ import annotations

import fcntl
import os
import sys
from contextlib import suppress
from pathlib import Path
from stat import S_ISREG
from typing import ClassVar

from durable_chat.errors import StartError

Place = tuple[int, int]
"""A file's device and inode."""

LOCKS_FILE_IS_DATABASE = sys.platform == "linux"
"""
Whether `flock` may be taken on the database itself. SQLite locks it with `fcntl`, which Linux keeps apart on local file
systems. Elsewhere the two exclude each other, also within one process: there the file beside it is all that is locked.
"""


class FilesMoved(Exception):
    """A file of the database is not at its path any more; the message is for whoever operates the server."""


class DatabaseFiles:
    """
    Mutable state: `_locks`, the locked files; `_file` and `_beside`, where the files were when they were opened.
    `_held` are the databases that this process has: closing any descriptor of one takes SQLite's own locks away.
    """

    _held: ClassVar[set[Place]] = set()

    def __init__(self, path: str) -> None:
        self.given = Path(path).absolute()
        self.path = str(self.given.resolve())
        self._locks: list[int] = []
        self._file: Place | None = None
        self._beside: dict[Path, Place] = {}
        self._log = Path(self.path + "-wal")

    # One process.

    def acquire(self) -> None:
        """
        Take the database for this process, creating an empty file where there is none. Raises StartError when another
        process has it, under this name or another, and when it cannot be written to.
        """
        try:
            self._lock(self.path + ".lock", "Cannot write beside the database")
            if _place(Path(self.path)) in self._held:
                raise _in_use(self.given, os.getpid())
            descriptor = self._lock(self.path, "Cannot open the database", is_locked=LOCKS_FILE_IS_DATABASE)
            found = os.fstat(descriptor)
            self._file = (found.st_dev, found.st_ino)
            self._held.add(self._file)
            if S_ISREG(found.st_mode) and found.st_nlink > 1:
                raise StartError(
                    f"The database {self.given} has {found.st_nlink} names (hard links). SQLite finds its write-ahead "
                    "log by name, so messages would be missing under one of them. Keep one name, and copy instead."
                )
        except BaseException:
            self.release()
            raise

    def _lock(self, path: str, trouble: str, *, is_locked: bool = True) -> int:
        """Open and lock a file; its descriptor, which is kept until `release`."""
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise StartError(f"{trouble} {self.given}: {error.strerror}.") from error
        self._locks.append(descriptor)
        try:
            if is_locked:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise _in_use(self.given, _find_holder(descriptor)) from error
        return descriptor

    def release(self) -> None:
        """Give the database back. The caller has closed all of SQLite's connections."""
        if self._file is not None:
            self._held.discard(self._file)
            self._file = None
        while self._locks:
            os.close(self._locks.pop())

    # Where they are.

    def note_beside(self) -> None:
        """Remember SQLite's own files, once its connection has made them."""
        for path in (self._log, Path(self.path + "-shm")):
            place = _place(path)
            if place is not None:
                self._beside[path] = place

    def check(self) -> None:
        """Raises FilesMoved when what has just been written would not be found at the next start."""
        if _place(self.given) != self._file:
            raise FilesMoved(self._told(self.given, "Put that file back, or restore a backup"))
        log = self._beside.get(self._log)
        if log is not None and _place(self._log) != log:
            raise FilesMoved(
                self._told(self._log, "Put it back, or stop the server with SIGTERM, which saves what it held")
            )

    def check_all(self) -> None:
        """`check`, and the index of the write-ahead log: without it another program would write over the log."""
        self.check()
        for path, place in self._beside.items():
            if _place(path) != place:
                raise FilesMoved(self._told(path, "Stop the server with SIGTERM, which saves what the log holds"))

    def _told(self, path: Path, advice: str) -> str:
        return (
            f"{path} was removed, moved or replaced while the server was running (pid {os.getpid()}). Nothing more is "
            f"acknowledged, since it would be gone after a restart. {advice}, then start the server again."
        )


def _place(path: Path) -> Place | None:
    with suppress(OSError):
        found = path.stat()
        return found.st_dev, found.st_ino
    return None


def _in_use(path: Path, holder: int | None) -> StartError:
    who = "Another process" if holder is None else f"Another process (pid {holder})"
    if holder == os.getpid():
        who = "This process"
    return StartError(
        f"{who} is using the database {path}. Stop it, or use another file. One SQLite file serves one process: run one "
        "worker, or use PostgreSQL for several (not in this version yet)."
    )


def _find_holder(descriptor: int) -> int | None:
    """The process that has locked a file, where the kernel tells: Linux does, of processes that are visible from here."""
    inode = str(os.fstat(descriptor).st_ino)
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        # 1: FLOCK  ADVISORY  WRITE 812 08:01:393217 0 EOF
        fields = line.split()
        if len(fields) > 5 and fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == inode and int(fields[4]) > 0:
            return int(fields[4])
    return None
