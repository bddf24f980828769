#!/usr/bin/env bash
# Run the C++ tests of csrc/attention and csrc/cpu with the kernels of AVX-512 on any x86-64 machine: in Bochs, which
# emulates a CPU that has it, under a Linux of its own.
#
#   bash scripts/test_avx512.sh                          # 10 cases: about ten minutes
#   bash scripts/test_avx512.sh --cases 40               # arguments go to the program, tests/csrc/main.cpp
#
# Bochs 2.7 has no instruction for bfloat16, and rounds ties up when it converts to float16, with AVX2 as well, where
# every real CPU passes: those are left out. On a machine with AVX-512 run scripts/sanitize.sh instead.
#
# Environment: VMLINUZ, a Linux 6.1 for x86-64 (docs/environment.md); without it that of Debian is downloaded.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

fail() {
  echo "test_avx512: $*" >&2
  exit 2
}

declare -A packages=([bochs]=bochs [xorriso]=xorriso [cpio]=cpio [busybox]=busybox-static
  [/usr/share/bochs/BIOS-bochs-latest]=bochsbios [/usr/share/bochs/VGABIOS-lgpl-latest]=vgabios
  [/usr/lib/ISOLINUX/isolinux.bin]=isolinux [/usr/lib/syslinux/modules/bios/ldlinux.c32]=syslinux-common)
missing=()
for need in "${!packages[@]}"; do
  if [[ ! -e "$need" ]] && ! command -v "$need" >/dev/null; then missing+=("${packages[$need]}"); fi
done
((${#missing[@]} == 0)) || fail "Debian's ${missing[*]} not installed; remedy: apt-get install ${missing[*]}"

(($# > 0)) || set -- --cases 10
folder="$PWD/build/avx512"
mkdir -p "$folder/root/bin" "$folder/root/proc" "$folder/root/dev" "$folder/iso/isolinux"

if [[ -z "${VMLINUZ:-}" ]]; then
  VMLINUZ="$folder/vmlinuz"
  if [[ ! -e "$VMLINUZ" ]]; then
    package="$(apt-cache depends linux-image-amd64 | awk '/Depends: linux-image/ {print $2; exit}')"
    (cd "$folder" && apt-get download --quiet "$package") || fail "cannot download $package; set VMLINUZ instead"
    dpkg-deb --fsys-tarfile "$folder/$package"_*.deb | tar -x -C "$folder" --wildcards './boot/vmlinuz-*'
    mv "$folder"/boot/vmlinuz-* "$VMLINUZ"
    rm -r "${folder:?}/boot" "$folder/$package"_*.deb
  fi
fi

# The program, in one file: the Linux has nothing else. What sanitize.sh runs here shows that it works at all.
bash scripts/sanitize.sh plain --cases 1
g++ -static -pthread build/sanitize/x86_64/plain/*.o -o "$folder/root/kernels_test"
cp "$(command -v busybox)" "$folder/root/bin/busybox"
cat >"$folder/root/init" <<INIT
#!/bin/busybox sh
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t devtmpfs dev /dev
echo 1 >/proc/sys/kernel/printk
exec >/dev/ttyS0 2>&1
ASCENDSPEED_CPU_ISA=avx512 /kernels_test --without-float16-ties $*
echo "exit code \$?"
/bin/busybox sleep 1
/bin/busybox poweroff -f
INIT
chmod +x "$folder/root/init"
(cd "$folder/root" && find . | cpio -o -H newc --quiet | gzip -1) >"$folder/iso/isolinux/initrd.gz"
cp "$VMLINUZ" "$folder/iso/isolinux/vmlinuz"
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$folder/iso/isolinux/"
# 321 and 323, XSAVEC and XSAVES: Bochs names a size for their format that Linux finds wrong, and then uses no AVX.
cat >"$folder/iso/isolinux/isolinux.cfg" <<'MENU'
default test
label test
 kernel vmlinuz
 append initrd=initrd.gz console=ttyS0 quiet clearcpuid=321,323 nokaslr mitigations=off lpj=4000000 tsc=reliable
MENU
xorriso -as mkisofs -quiet -o "$folder/test.iso" -b isolinux/isolinux.bin -c isolinux/boot.cat -no-emul-boot \
  -boot-load-size 4 -boot-info-table "$folder/iso" 2>"$folder/xorriso.log" ||
  fail "xorriso failed, see build/avx512/xorriso.log"

# A screen that nobody looks at, and the debugger of Debian's Bochs told to go on.
cat >"$folder/bochsrc" <<BOCHS
megs: 512
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
cpu: model=corei7_skylake_x, ips=30000000
display_library: rfb, options="timeout=0"
sound: driver=dummy
speaker: enabled=0
com1: enabled=1, mode=file, dev=$folder/serial.txt
ata0-master: type=cdrom, path=$folder/test.iso, status=inserted
boot: cdrom
log: $folder/bochs.log
BOCHS
echo c >"$folder/debugger"
rm -f "$folder/serial.txt"
# It ends with an error whenever the machine is switched off.
bochs -q -f "$folder/bochsrc" -rc "$folder/debugger" >"$folder/bochs.out" 2>&1 </dev/null || true
[[ -e "$folder/serial.txt" ]] || fail "nothing came from Bochs; see build/avx512/bochs.log and bochs.out"
tr -d '\r' <"$folder/serial.txt" | sed -n '/^kernels_test:\|^isa=\|^exit code/p'
grep -q '^exit code 0' "$folder/serial.txt" || fail "the kernels failed, or Linux did: see build/avx512/serial.txt"
