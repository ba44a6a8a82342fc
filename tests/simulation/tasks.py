"""What one process of a long run does. It is a separate module, as spawned processes cannot import ``__main__``."""

from __future__ import annotations

from simulation.run import Found, command_points, crash_points, explore

Task = tuple[str, str, range | int]  # a kind of server, what to run, and its seeds or the number of workers


def do(task: Task) -> dict[str, object] | str:
    """Run many worlds. Returns their figures, or the text of the first failure."""
    kind, what, of = task
    try:
        if isinstance(of, range):
            figures = explore(kind, of, operator=what == "operator")
        elif what == "crash points":
            figures = crash_points(kind, every_step=True)
        else:
            figures = command_points(kind, [what.removeprefix("command ")], workers=of)
    except Found as found:
        return str(found)
    return figures.as_property()
