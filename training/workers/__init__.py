"""The devices and processes that train one model together, and how they end."""
