# SPDX-License-Identifier: Apache-2.0

"""``python -m amiclient.tests.fuzz``: run the fuzzer."""

import sys

from amiclient.tests.fuzz import fuzzer

sys.exit(fuzzer.main())
