"""How many connections a process may have: what the kernel lets it open."""

from __future__ import annotations

import contextlib

FILES_SPARED_MIN = 64
"""Files for what is no connection of a client: the database, its log, the loop, the first models."""
CONNECTIONS_DEFAULT = 8_192
"""Where the kernel names no limit: beyond it a single process has other troubles than files."""


def raise_file_limit() -> int | None:
    """
    Every live reader is an open file, and the soft limit is often 1024; the hard one is the administrator's word. The
    limit that there is then, None where there is none.
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
    How many connections there may be where files may be open: an eighth of them is for the database, for models, whose
    providers are connections too, and for turning others away.
    """
    if files_max is None:
        return CONNECTIONS_DEFAULT
    return max(1, files_max - max(FILES_SPARED_MIN, files_max // 8))
