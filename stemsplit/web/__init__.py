"""A page in the browser, and its HTTP API, to mix, compare and separate stems (extra `web`)."""
