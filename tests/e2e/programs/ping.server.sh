# Nothing listens: the stack itself answers.
exec sleep 60
