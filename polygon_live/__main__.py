"""``python -m polygon_live`` and the ``polygon-live`` command."""

from polygon_live.commands import main

if __name__ == "__main__":
    main()
