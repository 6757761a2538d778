"""What ``llamafw chat`` and ``llamafw run`` share: requests to a server, or to its application in this process.

Both send the requests that any client sends; nothing here knows of engines or chat templates.
"""
