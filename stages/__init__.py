"""The stages of the chain, one module each.

Importing their libraries makes objects by the hundred thousand and hardly any garbage. Collecting it takes a quarter of
the time, so a stage that is started collects from `launch` on.
"""

import gc
import sys

if sys.argv[0] == "-m":  # Python is still looking for the module to run
    gc.disable()
