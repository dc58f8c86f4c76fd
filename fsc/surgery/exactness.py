"""What an edit must be: exact, checked by a run, or refused."""


class NotExact(ValueError):
    """An edit that is exact by design cannot be, or was not, exact; it is refused."""
