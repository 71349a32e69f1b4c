exec redis-server --port "$PORT" --bind "$BIND" --save "" --appendonly no --protected-mode no --dir "$WORK" \
    --daemonize no --loglevel warning
