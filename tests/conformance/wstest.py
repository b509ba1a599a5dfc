"""Start the Autobahn test suite from the folder it was installed into (Python 2.7).

python2.7 wstest.py FOLDER [wstest's own arguments]
"""

import site
import sys

folder = sys.argv.pop(1)
sys.path.insert(0, folder)
# Its dependencies include namespace packages, which live by their .pth files.
site.addsitedir(folder)

from autobahntestsuite.wstest import run  # noqa: E402

run()
