"""`python -m tests.sim` is `python -m tests.sim.run`."""

import os
import sys

from tests.sim.run import main

if os.environ.get("PYTHONHASHSEED") != "0":
    os.environ["PYTHONHASHSEED"] = "0"
    os.execv(sys.executable, [sys.executable, "-m", "tests.sim", *sys.argv[1:]])
sys.exit(main())
