#!/usr/bin/env python
"""Django's command line for the example, from any working directory."""

import os
import sys
from pathlib import Path


def main() -> None:
    # Python puts the script's own directory first; the project is the package
    # `example_project`, so its parent is what has to be importable.
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "example_project.settings")

    from django.core.management import execute_from_command_line

    execute_from_command_line(sys.argv)


if __name__ == "__main__":
    main()
