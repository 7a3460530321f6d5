"""``python -m aae`` is ``aae``."""

from aae.cli import main

if __name__ == "__main__":
    main()
