# SPDX-License-Identifier: Apache-2.0

"""``python -m amiclient.tests.cloud``: start, stop, or lend a cloud."""

import sys

from amiclient.tests.cloud import cloud

sys.exit(cloud.main())
