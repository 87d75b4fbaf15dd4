"""An execution graph as text or files, streamed: one function a format."""
