"""The console: server-rendered pages over the store and the gateway's figures. It shows, and changes nothing."""
