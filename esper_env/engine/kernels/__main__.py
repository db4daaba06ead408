"""`python -m esper_env.engine.kernels` builds the library of native kernels, where there is a compiler."""

import sys

from esper_env.engine.kernels.build import main

sys.exit(main())
