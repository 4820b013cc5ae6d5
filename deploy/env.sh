# The environment of every shell that starts Ray or speaks to it. In the repository's folder, with
# the virtual environment active:   . deploy/env.sh
#
# - A HOME of its own: Ray keeps its token there, and a file there stops the dashboard from asking
#   the cloud's metadata service what machine this is (it asks even with usage reports off).
# - A token: without it, anyone who reaches the dashboard's port can run code. `ray start` needs
#   the token to exist, and clients need the mode to be set, not only the file.
# - No usage reports. Disabled, Ray still sends one "disabled" ping; port 9 discards it.
#
# Serve's HTTP port is not covered by the token: see deploy/README.md.
export HOME="$PWD/.ray-home"
export RAY_USAGE_STATS_ENABLED=0
export RAY_USAGE_STATS_REPORT_URL=http://127.0.0.1:9/
export RAY_AUTH_MODE=token
# On a busy machine a proxy takes longer than Serve's 5 s to start, and would be killed for it.
export RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S=60
# One thread a process: processes share the cores, and scores are then equal bit by bit.
export OMP_NUM_THREADS=1

mkdir -p "$HOME/.ray" && chmod 700 "$HOME"
printf 'provider: {type: local}\n' > "$HOME/ray_bootstrap_config.yaml"
if [ ! -s "$HOME/.ray/auth_token" ]; then
  (umask 077 && ray get-auth-token --generate > /dev/null 2>&1)
  chmod 600 "$HOME/.ray/auth_token"
fi
