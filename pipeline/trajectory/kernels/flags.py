"""What `linearity` says of a scalar, as the bits of a byte."""

import numpy as np

MOVING, KEPT, NEITHER = np.uint8(1), np.uint8(2), np.uint8(0)
