"""Cannot be imported: it needs a module that is not there."""

from __future__ import annotations

import rusty_sdk_that_is_not_installed

MIX_PLUGIN_API = (1, 0)
PARTS = rusty_sdk_that_is_not_installed.parts
