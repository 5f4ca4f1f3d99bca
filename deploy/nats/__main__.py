"""`python -m deploy.nats`."""

import sys

from deploy.nats.cli import main

sys.exit(main())
