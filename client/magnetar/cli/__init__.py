"""The `magnetar` command.

Start reading at `app`, which names the commands. Commands of the servers come from whichever
distribution offers them through the entry point group `magnetar.commands`. Nothing heavy is
imported before a command runs, so that `--help` and completion answer at once.
"""
