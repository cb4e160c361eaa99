"""The maximum number of connections of a process, from the kernel's limit of open files."""

from __future__ import annotations

import contextlib

FILES_SPARED_MIN = 64
"""Files reserved for other uses than client connections: the database, its log, the event loop, model providers."""
CONNECTIONS_DEFAULT = 8_192
"""Used if the kernel has no limit. With more connections, a single process is limited by other things than files."""


def raise_file_limit() -> int | None:
    """
    Raise the soft limit of open files, which is often 1024, to the administrator's hard limit. Every live reader is an
    open file. Return the new limit, or None if there is none.
    """
    try:
        import resource
    except ImportError:  # not on Windows
        return None
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft


def connections_for(files_max: int | None) -> int:
    """
    Return how many connections are allowed with this limit of open files. An eighth of the files is reserved for the
    database, for connections to model providers, and for refusing further connections.
    """
    if files_max is None:
        return CONNECTIONS_DEFAULT
    return max(1, files_max - max(FILES_SPARED_MIN, files_max // 8))
