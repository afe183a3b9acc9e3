# SPDX-License-Identifier: Apache-2.0
import gc

# Workers and servers hold millions of objects, for good: a sixth of the time of
# all tests went into looking at them again.
gc.set_threshold(100_000, 50, 100)
