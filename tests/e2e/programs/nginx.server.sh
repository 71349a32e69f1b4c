mkdir -p "$WORK/www" "$WORK/nginx"
head -c 100000 /dev/zero | tr '\0' 'n' >"$WORK/www/page"
case "$BIND" in *:*) listen="[$BIND]:$PORT" ;; *) listen="$BIND:$PORT" ;; esac
user=""
[ "$(id -u)" != 0 ] || user="user root;"
cat >"$WORK/nginx.conf" <<CONF
$user
worker_processes 2;
daemon off;
pid $WORK/nginx/pid;
error_log $WORK/nginx/error.log warn;
events { worker_connections 512; }
http {
    access_log off;
    client_body_temp_path $WORK/nginx/body;
    proxy_temp_path $WORK/nginx/proxy;
    fastcgi_temp_path $WORK/nginx/fastcgi;
    uwsgi_temp_path $WORK/nginx/uwsgi;
    scgi_temp_path $WORK/nginx/scgi;
    sendfile on;
    tcp_nopush on;
    keepalive_requests 100000;
    server { listen $listen; root $WORK/www; }
}
CONF
exec nginx -e "$WORK/nginx/error.log" -c "$WORK/nginx.conf"
