"""What training.ipynb is made of. Its cells say what, these modules say how."""


class TrainingError(Exception):
    """Why training cannot go on, and what to do about it."""

    def _render_traceback_(self) -> list[str]:
        """IPython's hook: in a notebook the sentence stands alone, without the stack of calls above it."""
        return [f"{type(self).__name__}: {self}"]
