# SPDX-License-Identifier: Apache-2.0

import gc

# Workers and servers keep what they import. To look at it again and again
# while they begin takes a fifth of that time.
gc.set_threshold(100_000, 50, 100)
