import os
import sys

from django.core.management import execute_from_command_line

if __name__ == "__main__":
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "pages.settings")
    try:
        execute_from_command_line(sys.argv)
    finally:
        # What scripts around a command do; nobody may take it from them.
        if os.environ.get("PAGES_SAYS_GOODBYE"):
            print("goodbye")
