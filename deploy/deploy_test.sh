#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Keeps the files of this folder true: the flag file against the binary, the unit against systemd, the sysctl file
# against its own form. Arguments: the daemon, parkway.flags, parkway.service and 90-parkway.conf.
set -euo pipefail

readonly PARKWAY=$1 FLAGS=$2 UNIT=$3 SYSCTL=$4
readonly WORK=${TEST_TMPDIR:?run by bazel test //deploy:deploy_test}
failures=0

fail() {
  echo "FAILED: $*" >&2
  failures=$((failures + 1))
}

# What flags amount to.
dump() { "$PARKWAY" --print_config "$@"; }

# The flag file with the comment mark of its flags removed: each flag with its default, and without those that add routes.
uncommented=$WORK/uncommented.flags
sed -E '/^#--route/d; s/^#(--)/\1/' "$FLAGS" >"$uncommented"

# ---- Every flag of the binary is in the file, and the reverse.

names_in_help() {
  # --flagfile reads this file; the others ask, and set nothing.
  "$PARKWAY" --help | sed -nE 's/^  --([a-z_]+).*/\1/p' | grep -vxE 'flagfile|help|version|check|print_config' | sort
}
names_in_file() { sed -nE 's/^#?--([a-z_]+)=.*/\1/p' "$FLAGS" | sort; }

names_in_help >"$WORK/in_help"
names_in_file >"$WORK/in_file"
[[ -s $WORK/in_help ]] || fail "--help lists no flags"
diff "$WORK/in_help" "$WORK/in_file" >"$WORK/diff" ||
  fail "parkway.flags (>) and --help (<) do not list the same flags, each once:"$'\n'"$(cat "$WORK/diff")"

# Each flag is explained: a comment stands on the line above it.
unexplained=$(awk '/^#?--/ && before !~ /^# / { print FNR ": " $0 } { before = $0 }' "$FLAGS")
[[ -z $unexplained ]] || fail "no comment above: $unexplained"

# ---- The file parses as shipped, and with every flag in force; its values are the defaults.

dump --flagfile="$FLAGS" >"$WORK/shipped" || fail "the daemon refuses parkway.flags as shipped"
dump >"$WORK/defaults"
diff "$WORK/defaults" "$WORK/shipped" || fail "parkway.flags as shipped sets something"

dump --flagfile="$uncommented" >"$WORK/all" || fail "the daemon refuses parkway.flags uncommented"
# Naming them ends the trial run, which has none of these.
grep -vE '^--(mode|listen|backend)=' "$WORK/all" >"$WORK/all_limits"
diff "$WORK/defaults" "$WORK/all_limits" || fail "a value in parkway.flags (>) is not the default (<)"
dump --backend=127.0.0.1:9000 >"$WORK/proxy_defaults"
diff "$WORK/proxy_defaults" "$WORK/all" || fail "--mode or --listen in parkway.flags (>) is not the default (<)"

# The daemon's drain ends before systemd kills.
drain_s=$(sed -nE 's/^--drain_timeout=([0-9]+)s$/\1/p' "$uncommented")
stop_s=$(sed -nE 's/^TimeoutStopSec=([0-9]+)s$/\1/p' "$UNIT")
[[ -n $drain_s && -n $stop_s ]] && ((stop_s > drain_s)) ||
  fail "TimeoutStopSec (${stop_s}s) must exceed --drain_timeout (${drain_s}s)"

# ---- systemd understands the unit.

if command -v systemd-analyze >/dev/null; then
  # Only the program is replaced: /usr/bin/parkway need not be installed here.
  sed 's|^ExecStart=/usr/bin/parkway |ExecStart=/bin/true |' "$UNIT" >"$WORK/parkway.service"
  grep -q '^ExecStart=/bin/true ' "$WORK/parkway.service" || fail "ExecStart is not /usr/bin/parkway"
  verdict=$(systemd-analyze verify --man=no "$WORK/parkway.service" 2>&1) || fail "systemd-analyze verify: $verdict"
  # It warns of an unknown key or a bad value, and still exits with 0.
  [[ $verdict != *parkway.service* ]] || fail "systemd-analyze verify warns: $verdict"
else
  echo "SKIPPED: systemd-analyze is not installed (package systemd), so the unit was not verified"
fi

# ---- The sysctl file: "key = value" alone on its line, a reason above it, no key twice.

settings=$(sed -nE 's/^#?(-?[a-z0-9_]+(\.[a-z0-9_]+)+ = .*)/\1/p' "$SYSCTL")
((BASH_VERSINFO[0] >= 4)) && mapfile -t lines <<<"$settings"
((${#lines[@]} >= 5)) || fail "90-parkway.conf has ${#lines[@]} settings only"
for line in "${lines[@]}"; do
  [[ $line =~ ^-?(net|fs|vm|kernel)(\.[a-z0-9_]+)+\ =\ [0-9]+(\ [0-9]+)*$ ]] || fail "90-parkway.conf: '$line'"
done
# Everything that is no comment and not blank must be one of them; sysctl.d knows no comment behind a value.
odd=$(grep -vE '^(#|$)|^-?[a-z0-9_]+(\.[a-z0-9_]+)+ = [0-9 ]+$' "$SYSCTL" || true)
[[ -z $odd ]] || fail "90-parkway.conf: neither comment nor setting: $odd"
twice=$(sed -E 's/^-?([^ ]+) .*/\1/' <<<"$settings" | sort | uniq -d)
[[ -z $twice ]] || fail "90-parkway.conf sets twice: $twice"
unexplained=$(awk '/^#?-?[a-z0-9_]+\.[a-z0-9_.]+ = / && before !~ /^# / { print FNR ": " $0 } { before = $0 }' "$SYSCTL")
[[ -z $unexplained ]] || fail "90-parkway.conf: no reason above: $unexplained"
open_max=$(sed -nE 's/^fs\.nr_open = ([0-9]+)$/\1/p' "$SYSCTL")
limit=$(sed -nE 's/^LimitNOFILE=([0-9]+)$/\1/p' "$UNIT")
((limit <= open_max)) || fail "LimitNOFILE=$limit exceeds fs.nr_open = $open_max: the unit would not start"

# ---- All of them say under which licence they stand.

for file in "$FLAGS" "$UNIT" "$SYSCTL"; do
  [[ $(head -1 "$file") == "# SPDX-License-Identifier: Apache-2.0" ]] || fail "$file: no SPDX line"
done

((failures == 0)) || exit 1
echo "deploy: all files agree with the binary and with systemd"
