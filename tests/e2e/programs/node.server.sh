exec node "$PROGRAMS/web.js" serve
