"""`magnetar admin`: tenants, policies, topics, subscriptions and messages by hand.

Start reading at `group`, which loads the rest only when it is asked for. Each noun has a module;
each command reads its arguments, makes one call of `client.admin` and prints the answer.
"""
