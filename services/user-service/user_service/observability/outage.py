"""An outage is logged when it begins and when it ends, however many requests meet it."""

import logging

log = logging.getLogger(__name__)


class Outage:
    """Whether something does not work at the moment."""

    def __init__(self, began: str, ended: str) -> None:
        """``began`` and ``ended`` are the lines of the log."""
        self._began = began
        self._ended = ended
        self.lasts = False

    def begin(self, error: Exception) -> None:
        """Log that the outage has begun, with its reason, unless it lasts already."""
        if not self.lasts:
            self.lasts = True
            log.warning("%s: %s", self._began, error)

    def end(self) -> None:
        """Log that the outage is over, if there was one."""
        if self.lasts:
            self.lasts = False
            log.info(self._ended)
