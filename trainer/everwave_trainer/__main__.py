"""`python -m everwave_trainer` is the command `everwave-train`."""

from .cli import main

raise SystemExit(main())
