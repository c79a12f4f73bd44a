"""What commands exit with. ``troth --help`` says it in words (a test compares); servers: server/ending.py."""

EXIT_REFUSED = 1
"""An error, and nothing happened."""
EXIT_NO = 1
"""The answer is no: nothing is there, something else is, not all are well, or it is not as promised."""
EXIT_USAGE = 2
EXIT_UNKNOWN = 3
EXIT_UNAVAILABLE = 4
EXIT_INTERRUPTED = 130
"""What a shell makes of SIGINT."""

EXIT_OF_CHECK = {"ok": 0, "illegal": EXIT_NO, "unknown": EXIT_UNKNOWN}
"""By the verdict of ``troth verify`` and ``troth torture``."""
