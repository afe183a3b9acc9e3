# Sourced by tools/test and tools/demo: packages and the virtual environment.

set -euo pipefail

root=$(cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.." && pwd -P)
venv=$root/.venv
cd -- "$root"

say() {
    printf '%s\n' "$*" >&2
}

die() {
    say "$(basename -- "$0"): $*"
    exit 1
}

as_root() {
    if [ "$(id -u)" = 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo -- "$@"
    else
        die "please run as root: $*"
    fi
}

# insist COMMAND...: try again what the network, or a lock, may have failed.
insist() {
    local pause
    for pause in 5 20 60; do
        "$@" && return
        say "That failed; once more in $pause seconds: $*"
        sleep "$pause"
    done
    "$@"
}

# Where ordinary users on Debian do not look, but where e2fsprogs live.
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

# need_packages PROFILE...: install what bindep.txt wants for them, at once.
need_packages() {
    local name missing=()
    if ! command -v dpkg-query >/dev/null; then
        say "This is not Debian or Ubuntu: please see that what bindep.txt" \
            "lists for '$*' is installed"
        return
    fi
    while read -r name; do
        case $name in
        # A python3 that is not the distribution's brings its own, and there
        # may be a git of another make.
        python3-venv) "$python" -c 'import ensurepip, venv' 2>/dev/null ;;
        # Likewise.
        python3-dev)
            "$python" -c 'import os, sysconfig as s
os.stat(s.get_path("include") + "/Python.h")' 2>/dev/null
            ;;
        git) command -v git >/dev/null ;;
        # Any kernel will do, if there is one.
        linux-image-*) compgen -G '/boot/vmlinuz-*' >/dev/null ;;
        *)
            dpkg-query --show --showformat='${db:Status-Status}\n' "$name" \
                2>/dev/null | grep -qx installed
            ;;
        esac || missing+=("$name")
    done < <(for name in "$@"; do packages "$name"; done | sort -u)
    if [ ${#missing[@]} -gt 0 ]; then
        say "Installing ${missing[*]}"
        insist install_packages "${missing[@]}"
    fi
}

install_packages() {
    # Something else, cron's upgrades say, may be at it as well.
    local apt=(apt-get -qq -o DPkg::Lock::Timeout=600 -o Acquire::Retries=3)
    # What an old list names may still be there.
    as_root "${apt[@]}" update || say "apt-get update failed"
    # A machine in CI is thrown away.
    [ -z "${CI-}" ] || apt+=(-o DPkg::Options::=--force-unsafe-io)
    # This machine, which had no kernel, does not boot the one from here.
    as_root env DEBIAN_FRONTEND=noninteractive INITRD=No "${apt[@]}" install \
        --yes --no-install-recommends "$@" >/dev/null
}

# The names in bindep.txt that are for everything, or for this profile: what
# bindep, which may not be there, would say of Debian.
packages() {
    awk -v profile="$1" '
        /^[a-z]/ {
            name = $1
            gsub(/.*\[|\].*/, "")
            platforms = profiles = here = asked = 0
            for (i = split($0, word, " "); i > 0; i--) {
                if (word[i] ~ /^platform:/) platforms++
                else profiles++
                if (word[i] == "platform:dpkg") here = 1
                if (word[i] == profile) asked = 1
            }
            if ((here || !platforms) && (asked || !profiles)) print name
        }' bindep.txt
}

need_python() {
    python=${PYTHON:-python3}
    # A Debian that was just installed may have none.
    if ! command -v "$python" >/dev/null && [ -z "${PYTHON-}" ] &&
        command -v apt-get >/dev/null; then
        say "Installing python3"
        insist install_packages python3
    fi
    command -v "$python" >/dev/null || die "$python was not found"
    "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
        die "$("$python" --version) is too old: Python 3.11 or later is needed" \
            "(PYTHON=... chooses another)"
}

# need_venv NAME REQUIREMENTS...: have them, and this project, in .venv.
need_venv() {
    local stamp=$venv/$1.stamp wanted file
    shift
    wanted=$(
        "$python" --version
        printf '%s\n' "$root"
        cat setup.cfg pyproject.toml requirements.txt "$@"
    )
    if [ -e "$stamp" ] && [ "$wanted" = "$(cat "$stamp")" ] &&
        "$venv/bin/python" -c 'import amiclient' 2>/dev/null; then
        return
    fi
    say "Installing the project and what it needs into $venv"
    if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
        "$python" -m venv --clear "$venv"
    fi
    if ! git -C "$root" rev-parse HEAD >/dev/null 2>&1; then
        # Not a clone, or somebody else's: pbr cannot ask git.
        export PBR_VERSION=${PBR_VERSION:-$(version).dev0}
    fi
    local requirements=()
    for file in "$@"; do
        requirements+=(--requirement "$file")
    done
    insist install_python "${requirements[@]}" --editable .
    printf '%s\n' "$wanted" >"$stamp"
}

# version: the one that comes next, which is in one place.
version() { sed -n 's/^version = //p' setup.cfg; }

# install_python ARGUMENTS: what pip would do, in a tenth of the time. Where uv
# is not to be had, pip does.
install_python() {
    local pip=("$venv/bin/python" -m pip -qq --disable-pip-version-check)
    "${pip[@]}" install uv &&
        configure_uv &&
        "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" \
            "$@" ||
        "${pip[@]}" install "$@"
}

# unit_tests NAME PYTHON CONSTRAINTS OPTION...: run them in an environment of
# their own, with these options of stestr.
unit_tests() {
    local name=$1 python=$2 constraints=$3 work status=0
    shift 3
    "$venv/bin/uv" --version >/dev/null 2>&1 ||
        die "uv is needed: tools/test installs it"
    configure_uv
    work=$(mktemp -d)
    # Not the embedded cloud: its services need newer libraries.
    sed '/^# The embedded cloud/,$d' test-requirements.txt >"$work/tests"
    "$venv/bin/uv" venv --quiet --clear --no-python-downloads \
        --python "$python" "$root/.test/$name"
    insist "$venv/bin/uv" pip install --quiet --python "$root/.test/$name" \
        --constraint "$constraints" --requirement "$work/tests" --editable .
    (
        PATH=$root/.test/$name/bin:$PATH
        export PATH OS_TEST_PATH=./amiclient/tests/unit
        # Others may run tests at the same time.
        stestr --repo-url "$work" run --subunit "$@" \
            >"$work/stdout" 2>"$work/stderr" || status=1
        python tools/summary.py "$work/stdout" "$work/stderr" || status=1
        exit $status
    ) || status=1
    rm -rf -- "$work"
    return $status
}

# configure_uv: set for uv what pip was configured for, which it does not read.
# A variable that is set already stays.
configure_uv() {
    local name value
    export UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-180}
    # Any index may have the best version, as for pip.
    export UV_INDEX_STRATEGY=${UV_INDEX_STRATEGY:-unsafe-best-match}
    # What the environment says comes first, and pip goes by that.
    while IFS='=' read -r name value; do
        value=${value#\'}
        value=${value%\'}
        case $name in
        *.cert) export SSL_CERT_FILE="${SSL_CERT_FILE:-$value}" ;;
        *.constraint) export UV_CONSTRAINT="${UV_CONSTRAINT:-$value}" ;;
        *.extra-index-url) export UV_INDEX="${UV_INDEX:-$value}" ;;
        *.find-links) export UV_FIND_LINKS="${UV_FIND_LINKS:-$value}" ;;
        *.index-url) export UV_DEFAULT_INDEX="${UV_DEFAULT_INDEX:-$value}" ;;
        esac
    done < <("$venv/bin/python" -m pip config list)
}
