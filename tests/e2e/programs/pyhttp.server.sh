mkdir -p "$WORK/files"
head -c 2000000 /dev/zero | tr '\0' 'p' >"$WORK/files/file"
exec python3 -m http.server --bind "$BIND" --directory "$WORK/files" "$PORT"
