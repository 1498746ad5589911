"""The stand-in server's file origin: objects, the URLs that lead to them, and uploads."""
