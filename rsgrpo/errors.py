"""The one exception that a user may see: a sentence, never a traceback."""

from __future__ import annotations

import difflib
import errno
from collections.abc import Sequence


class UserError(Exception):
    """A fault that the user can mend: one sentence with the thing, the value met and what to do.

    The command line prints it and exits with status 2.
    """


def explain_os_error(fault: OSError) -> str:
    """Return the sentence for an operating-system error that a user can cause.

    Args:
        fault: The error met, with its `errno` and the path where known.

    Returns:
        One sentence naming the path and what to do.
    """
    path = fault.filename or "the output folder"
    sentences = {
        errno.ENOSPC: f"no space is left on the disk that holds {path}: free some, then run the "
        "same command again; what is finished is kept",
        errno.EDQUOT: f"the disk quota for {path} is used up: free some space, then run the same "
        "command again; what is finished is kept",
        errno.EROFS: f"{path} is on a read-only file system: choose a writable folder",
        errno.EACCES: f"{path} may not be opened by this user: change its permissions or choose "
        "another path",
        errno.ENOENT: f"{path} does not exist: check the path",
        errno.ENOTDIR: f"{path} lies below something that is not a folder: choose another path",
        errno.EISDIR: f"{path} is a folder where a file is needed: name a file",
    }
    return sentences.get(fault.errno or 0, f"{path}: {fault.strerror or fault}")


def unknown(kind: str, name: str, known: Sequence[str]) -> str:
    """Return the sentence for a name that is not in `known`, with the nearest one."""
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(known)}"
    return f"unknown {kind} {name!r}: {hint}"
