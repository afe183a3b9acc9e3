# Sourced by tools/test and tools/demo, after common.sh: a real Debian.

# make_root TAR DEVICE [PACKAGE ...]: a root file system, as a tar archive, that
# boots to a login prompt and grows to the size of the disk.
make_root() {
    local architecture kernel option tar=$1 device=$2
    shift 2
    architecture=$(dpkg --print-architecture)
    case $architecture in
    amd64 | arm64) kernel=linux-image-cloud-$architecture ;;
    *) kernel=linux-image-$architecture ;;
    esac
    local packages=("$kernel" e2fsprogs init iproute2 login udev "$@")
    local command=(
        mmdebstrap --variant=minbase
        # Without what is only for people to read.
        --include="${packages[*]}"
        --dpkgopt='path-exclude=/usr/share/doc/*'
        --dpkgopt='path-exclude=/usr/share/locale/*'
        --dpkgopt='path-exclude=/usr/share/man/*'
        --customize-hook='echo "'"$device"' / ext4 x-systemd.growfs 0 1" \
            >"$1/etc/fstab"'
        --customize-hook='echo demo >"$1/etc/hostname"'
        # Anybody may log in on the console; there is no other way in.
        --customize-hook='chroot "$1" passwd --quiet --delete root'
        --aptopt='Acquire::Retries "3"'
        "${AMICLIENT_DEMO_SUITE:-stable}" "$tar"
    )
    # As apt does on this machine: a proxy, or a mirror that is a snapshot.
    while read -r option; do
        command+=(--aptopt="$option")
    done < <(apt-config dump |
        grep -E '^Acquire::(Check-Valid-Until|https?::Proxy) ".+";$')
    if [ -n "${AMICLIENT_DEMO_MIRROR-}" ]; then
        command+=("$AMICLIENT_DEMO_MIRROR")
    fi
    # In a user namespace of its own, where that is allowed.
    if [ "$(id -u)" != 0 ] && "${command[@]}" --mode=unshare; then
        return
    fi
    as_root "${command[@]}"
}
