#!/bin/busybox sh
# The first process of the guest. GUEST_PHASE and GUEST_ACKED come from the kernel's command line.
export PATH=/bin
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
busybox mount -t devtmpfs dev /dev
for module in $(busybox cat /modules/order); do
    busybox insmod "/modules/$module" || echo "FAILED insmod $module"
done
for _ in 1 2 3 4 5 6 7 8 9 10; do # drivers are probed in the background
    [ -e /dev/pmem0 ] || busybox sleep 0.3
done
[ -e /dev/pmem0 ] || { busybox dmesg | busybox grep -iE 'nvdimm|nd_|pmem|e820|user-defined|persistent|unknown symbol' | busybox tail -n 25; }
busybox mount -t ext4 -o dax=always /dev/pmem0 /pool || echo "FAILED mount -o dax=always"
busybox grep -q ' /pool ext4 .*dax=always' /proc/mounts && echo "mounted with dax=always"
busybox grep -qw clwb /proc/cpuinfo && echo "cpu has clwb"
case $GUEST_PHASE in
load) /guest load /pool/pool.fkv "$GUEST_ACKED" ;;
poison) /guest poison /pool/poison ;;
esac
echo "guest program ended with $?"
busybox poweroff -f
