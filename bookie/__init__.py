"""The storage node: keeps entries of ledgers, durably and write-once.

It guards three promises: what it acknowledged it can read back; what it fenced stays fenced;
and it says "no such entry" only when it is certain. One append-only log is both journal and
store; the index can be lost and is rebuilt from it.

Start reading at `record` (the format), then `log` (group commit), `storage` (the rules), and
`replay` (what a start finds). `server` speaks the wire, `node` puts it together.
"""
