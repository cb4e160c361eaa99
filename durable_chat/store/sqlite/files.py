"""
The database's files in the file system: only one process may use them, and they must stay where they are.

SQLite keeps writing to a file after it was removed, and all of that is lost when the process ends. So the store
compares the path with the open file before it acknowledges anything.
"""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path
from stat import S_ISREG
from typing import ClassVar

from durable_chat.errors import StartError

Place = tuple[int, int]
"""A file's device and inode."""

LOCKS_FILE_IS_DATABASE = sys.platform == "linux"
"""
Whether to take `flock` on the database file itself. SQLite locks the file with `fcntl`. Linux keeps the two kinds of
lock apart on local file systems. On other systems they exclude each other, even within one process, so only the `.lock`
file is locked.
"""


class FilesMoved(Exception):
    """A file of the database is no longer at its path. The message is for the operator."""


class DatabaseFiles:
    """
    Mutable state: `_locks`, the locked files; `_file` and `_beside`, the device and inode of the files when they were
    opened. `_held` are the databases that this process uses: closing any descriptor of a database would release
    SQLite's own locks.
    """

    _held: ClassVar[set[Place]] = set()

    def __init__(self, path: str) -> None:
        self.given = str(Path(path).absolute())
        self.path = str(Path(path).resolve())
        self._locks: list[int] = []
        self._file: Place | None = None
        self._beside: dict[str, Place] = {}
        self._log = self.path + "-wal"

    # One process.

    def acquire(self) -> None:
        """
        Lock the database for this process. Creates an empty file if none exists. Raises StartError when another process
        uses it, under this name or another, and when the file is not writable.
        """
        try:
            self._lock(self.path + ".lock", "Cannot open the lock file beside the database")
            if _place(self.path) in self._held:
                raise _in_use(self.given, os.getpid())
            descriptor = self._lock(self.path, "Cannot open the database", is_locked=LOCKS_FILE_IS_DATABASE)
            found = os.fstat(descriptor)
            self._file = (found.st_dev, found.st_ino)
            self._held.add(self._file)
            if S_ISREG(found.st_mode) and found.st_nlink > 1:
                raise StartError(
                    f"The database {self.given} has {found.st_nlink} names (hard links). SQLite finds its write-ahead "
                    "log by name, so messages would be missing under one of them. Keep one name, and make copies instead."
                )
        except BaseException:
            self.release()
            raise

    def _lock(self, path: str, trouble: str, *, is_locked: bool = True) -> int:
        """Open and lock a file. Returns its descriptor, which stays open until `release`."""
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
        """Unlock the database. The caller must have closed all of SQLite's connections."""
        if self._file is not None:
            self._held.discard(self._file)
            self._file = None
        while self._locks:
            os.close(self._locks.pop())

    # Places.

    def note_beside(self) -> None:
        """Remember the places of SQLite's own files after its connection created them."""
        for path in (self._log, self.path + "-shm"):
            place = _place(path)
            if place is not None:
                self._beside[path] = place

    def check(self) -> None:
        """Raise FilesMoved when the next start would not find what was just written."""
        if _place(self.given) != self._file:
            raise FilesMoved(self._told(self.given, "Put that file back, or restore a backup"))
        log = self._beside.get(self._log)
        if log is not None and _place(self._log) != log:
            raise FilesMoved(
                self._told(self._log, "Put it back, or stop the server with SIGTERM, which saves its content")
            )

    def check_all(self) -> None:
        """
        Make the checks of `check`, and check the index of the write-ahead log. Without the index, another program would
        overwrite the log.
        """
        self.check()
        for path, place in self._beside.items():
            if _place(path) != place:
                raise FilesMoved(self._told(path, "Stop the server with SIGTERM, which saves the log's content"))

    def _told(self, path: str, advice: str) -> str:
        return (
            f"{path} was removed, moved or replaced while the server was running (pid {os.getpid()}). The server "
            f"acknowledges no more writes, because a restart would lose them. {advice}, then start the server again."
        )


def _place(path: str) -> Place | None:
    try:
        found = os.stat(path)  # noqa: PTH116 - for each flush; a Path costs three times as much
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _in_use(path: str, holder: int | None) -> StartError:
    who = "Another process" if holder is None else f"Another process (pid {holder})"
    if holder == os.getpid():
        who = "This process"
    return StartError(
        f"{who} is using the database {path}. Stop it, or use another file. One SQLite file serves one process: run one "
        "worker, or use a remote store (an https:// address) for several. PostgreSQL is not supported yet."
    )


def _find_holder(descriptor: int) -> int | None:
    """
    The process that has locked a file, or None. Only Linux tells, and only for processes that are visible from here.
    """
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
