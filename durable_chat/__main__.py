"""`python -m durable_chat`."""

import sys

from durable_chat.cli import main

if __name__ == "__main__":
    sys.exit(main())
