"""`python -m optimizer.verify PLAN.json`."""

from optimizer.verify.command import main

raise SystemExit(main())
