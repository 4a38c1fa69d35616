"""`python -m everwave` is the command `everwave`."""

from .cli import main

raise SystemExit(main())
