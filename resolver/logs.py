"""Log lines on stderr: one line an event, with the process it comes from. systemd and containers take it from there."""

from __future__ import annotations

import logging
import sys


class _OneLine(logging.Formatter):
    """An exception becomes its text and the place it was raised at, on the same line."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        text = record.getMessage()
        if record.exc_info and (error := record.exc_info[1]):
            trace = error.__traceback__
            while trace and trace.tb_next:
                trace = trace.tb_next
            where = f" at {trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}" if trace else ""
            text += f": {error!r}{where}"
        record.message = text.replace("\n", " | ")
        record.asctime = self.formatTime(record, self.datefmt)
        return self.formatMessage(record)


def set_up(process: str) -> None:
    """Log to stderr as `process` from now on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_OneLine(f"%(asctime)s {process}: %(levelname)s: %(message)s", "%Y-%m-%dT%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
