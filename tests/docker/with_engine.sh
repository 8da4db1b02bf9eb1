#!/usr/bin/env bash
# with_engine.sh COMMAND…: runs it with a Docker engine that has the images the service starts from.
#
# An engine that answers is used; images that it lacks are pulled. With SKINML_STANDINS=1, for a
# machine that reaches Debian's packages but no image registry: without an engine one of Debian 13's
# packages is started for the time of the command, and images that are missing are built from
# Debian's packages, under the same names and tags, though mostly of other versions. It needs Debian
# and root. What was made is kept in SKINML_DOCKER_DIR (/var/cache/skinml-docker).
set -euo pipefail
cd "$(dirname "$0")/../.."

folder=${SKINML_DOCKER_DIR:-/var/cache/skinml-docker}
# The image that a service or a Dockerfile starts from, and the stand-in's target for it.
images=$(sed -nE 's/^ *image: ([^ #]+).*/\1/p; s/^FROM ([^ ]+).*/\1/p' \
  docker-compose.yml deploy/*/Dockerfile | grep -v -e '^skinml-' -e versitygw | sort -u)

say() { printf 'test-docker: %s\n' "$*" >&2; }

main() {
  if ! docker info >/dev/null 2>&1; then
    [ "${SKINML_STANDINS:-}" ] || {
      say "no Docker engine answers; start one, or SKINML_STANDINS=1 makes one of Debian's packages"
      exit 1
    }
    start_engine
  fi
  for image in $images; do
    docker image inspect "$image" >/dev/null 2>&1 && continue
    if [ "${SKINML_STANDINS:-}" ]; then
      build_standin "$image"
    else
      docker pull --quiet "$image" >&2 || {
        say "$image is not here and cannot be pulled; SKINML_STANDINS=1 builds a stand-in for it"
        exit 1
      }
    fi
  done
  SKINML_STANDINS_FOUND=$(name_standins 2>&1 | tee -a /dev/stderr) "$@"
}

start_engine() {
  [ "$(id -u)" = 0 ] && [ -e /etc/debian_version ] || { say "stand-ins need Debian and root"; exit 1; }
  mkdir -p "$folder"
  exec 9>"$folder/lock"
  flock -n 9 || { say "$folder is in use by another call"; exit 1; }
  apt_install iptables runc
  [ -e "$folder/engine/.whole" ] || unpack_engine
  export PATH="$folder/engine/usr/bin:$folder/engine/usr/sbin:/usr/sbin:$PATH"
  export DOCKER_CONFIG="$folder/config" DOCKER_HOST="unix://$folder/docker.sock"
  if ! docker info >/dev/null 2>&1; then
    dockerd --data-root "$folder/data" --exec-root "$folder/exec" --pidfile "$folder/dockerd.pid" \
      --host "$DOCKER_HOST" >"$folder/dockerd.log" 2>&1 9>&- &
    trap 'kill "$(cat "$folder/dockerd.pid")"; wait' EXIT
    until docker info >/dev/null 2>&1; do
      kill -0 $! || { tail -n 5 "$folder/dockerd.log" >&2; exit 1; }
      sleep 0.2
    done
  fi
}

apt_install() {
  local missing
  missing=$(for package in "$@"; do dpkg -s "$package" >/dev/null 2>&1 || echo "$package"; done)
  # shellcheck disable=SC2086  # several words
  [ -z "$missing" ] || apt-get install --quiet --yes --no-install-recommends $missing >&2
}

# The mirror that this machine's apt uses.
mirror() {
  apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' \
    | awk -v release="$(. /etc/os-release && echo "$VERSION_CODENAME")" \
      '$2 == release && $3 == "main" { print $1; exit }'
}

# Debian 13's engine, with lists and state of apt's own, beside what the machine has installed.
unpack_engine() {
  local apt="$folder/apt" package
  say "unpacking Debian 13's Docker engine into $folder"
  rm -rf "$apt" "$folder/engine"
  mkdir -p "$apt"/{state/lists/partial,cache/archives/partial,etc/apt.conf.d,etc/preferences.d} \
    "$folder/engine" "$folder/config/cli-plugins"
  : >"$apt/state/status"
  echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $(mirror) trixie main" \
    >"$apt/etc/sources.list"
  cat >"$apt/apt.conf" <<EOF
Dir::State "$apt/state";
Dir::State::status "$apt/state/status";
Dir::Cache "$apt/cache";
Dir::Etc "$apt/etc";
APT::Sandbox::User "root";
EOF
  (
    cd "$folder/engine"
    export APT_CONFIG="$apt/apt.conf"
    apt-get --quiet update >&2
    apt-get --quiet download docker.io docker-cli docker-compose docker-buildx containerd tini >&2
    for package in *.deb; do dpkg --extract "$package" . && rm "$package"; done
  )
  ln -sf tini-static "$folder/engine/usr/bin/docker-init"
  ln -sf "$folder"/engine/usr/libexec/docker/cli-plugins/* "$folder/config/cli-plugins/"
  touch "$folder/engine/.whole"
}

build_standin() {
  local image=$1 target
  target=$(basename "${image%%:*}")
  case $target in python) base 12 bookworm ;; *) base 13 trixie ;; esac
  say "building a stand-in for $image"
  mkdir -p "$folder/context"
  cp tests/docker/standins/* "$folder/context/"
  # What this machine trusts and how its pip is set: the registries that it reaches need them.
  cp -L /etc/ssl/certs/ca-certificates.crt "$folder/context/"
  cat /etc/pip.conf >"$folder/context/pip.conf" 2>/dev/null || :
  docker build --quiet --target "$target" --label skinml.standin="$target" --tag "$image" \
    "$folder/context" >&2
}

base() {
  local name="skinml-standin/debian-$1" root="$folder/debian-$1"
  docker image inspect "$name" >/dev/null 2>&1 && return
  apt_install debootstrap
  say "making Debian $1 with debootstrap"
  rm -rf "$root"
  debootstrap --variant=minbase --include=ca-certificates "$2" "$root" "$(mirror)" >&2
  rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/*
  tar -C "$root" -c . | docker import - "$name" >&2
  rm -rf "$root"
}

name_standins() {
  local image has
  for image in $images; do
    case $(docker image inspect --format '{{index .Config.Labels "skinml.standin"}}' "$image") in
      '') continue ;;
      python) has='python --version' ;;
      postgres) has='postgres --version' ;;
      pgbouncer) has='pgbouncer --version' ;;
      caddy) has='caddy version' ;;
      prometheus) has='prometheus --version' ;;
      postgres-exporter) has='prometheus-postgres-exporter --version' ;;
      grafana) has='echo nothing of Grafana' ;;
    esac
    say "STAND-IN for $image: $(docker run --rm --entrypoint sh "$image" -c "$has 2>&1 | head -n 1")"
  done
}

main "$@"
